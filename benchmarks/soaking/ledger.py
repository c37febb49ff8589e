"""What clients sent and got, added up as the server should have counted it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field

from tqdm import tqdm

from .client import HUNG_UP, TOKENIZE, Outcome, Request


@dataclass
class Ledger:
    """Sums over all requests so far."""

    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests by kind and outcome: a status, or "hung up"."""
    errors: list[str] = field(default_factory=list)
    """What came back wrong, a line each."""
    images: int = 0
    """Pruned images of requests that the processor is sure to have seen."""
    tokens_in: int = 0
    """Visual tokens of those images before pruning."""
    tokens_kept: int = 0
    """Visual tokens of those images after pruning."""
    prompt_tokens: int = 0
    """Tokens of the prompts that the engine is sure to have read."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Refusals by the plugin, by reason."""
    hang_ups: int = 0
    hang_ups_answered: int = 0
    resent: int = 0
    """Requests that vLLM asked to send again, see `asks_again`."""

    def add(self, request: Request, outcome: Outcome) -> None:
        """Count a request that has ended."""
        status = "hung up" if outcome.status == HUNG_UP else str(outcome.status)
        self.statuses[request.kind, status] += 1
        if problem := _problem(request, outcome):
            self.errors.append(f"{request.kind}: {problem}")
            tqdm.write(self.errors[-1], file=sys.stderr)
        if request.refusal and outcome.status == request.status:
            self.refusals[request.refusal] += 1
        if request.hang_up is not None:
            self.hang_ups += 1
            self.hang_ups_answered += outcome.status == 200
        elif outcome.status == request.status:
            self.add_images(request)
            if request.path != TOKENIZE:  # whose prompts the engine does not read
                self.prompt_tokens += request.prompt_tokens or 0

    def add_images(self, request: Request) -> None:
        """Count what the processor counts of a request, whatever became of it afterwards."""
        self.images += len(request.pruned)
        self.tokens_in += sum(before for before, _ in request.pruned)
        self.tokens_kept += sum(kept for _, kept in request.pruned)

    def add_resent(self, request: Request) -> None:
        """Count a request that vLLM asked for again: it was processed, and not read."""
        self.resent += 1
        if request.hang_up is None:
            self.add_images(request)


def asks_again(request: Request, outcome: Outcome) -> bool:
    """Whether vLLM wants the request once more.

    Its image cache is in two processes, which can drift apart where requests end early or overtake
    each other. It notices, forgets the image and fails the request: its own doing, with a plugin
    or without. The server's log says how often it was that.
    """
    return request.status == 200 and outcome.status == 500


def _problem(request: Request, outcome: Outcome) -> str | None:
    """What is wrong with an outcome that the client did not cause itself."""
    if outcome.status == HUNG_UP:
        return None
    if outcome.status != request.status:
        return f"{outcome.status} instead of {request.status}: {outcome.text[:300]}"
    if outcome.prompt_tokens != request.prompt_tokens:
        return f"{outcome.prompt_tokens} prompt tokens instead of {request.prompt_tokens}"
    return None
