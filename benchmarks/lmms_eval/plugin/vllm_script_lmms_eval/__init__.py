"""lmms-eval's model `vllm_script`: a vLLM server, asked with a `script` field or without.

It runs in lmms-eval's environment, imports nothing of vllm-script, and is found there by the entry
point `lmms_eval.models`.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval registers: the model's name, and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vllm_script", chat_class_path=f"{__name__}.model.VllmScript")
