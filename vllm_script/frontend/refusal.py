"""What a client is told when its request asks of Script what cannot be had: HTTP 400, and why."""

from __future__ import annotations

from vllm.exceptions import VLLMValidationError

from .metrics import metrics


def refusal(reason: str, message: str) -> VLLMValidationError:
    """Return the error to raise, counted under `reason`, one of a few words."""
    metrics().refusals.labels(reason).inc()
    return VLLMValidationError(message, parameter="script")
