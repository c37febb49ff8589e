"""Speculative decoding: which methods a family may have beside pruned images."""

from __future__ import annotations

from ..vllm_types import EngineArgs

FROM_TEXT = ("ngram", "suffix")
"""Methods that look at token ids alone. What they draft is text behind the prompt, whose positions
do not depend on which rows stay. `ngram_gpu` is none of them: with it steps overlap, and model
runner V1, which then corrects positions on the GPU after a draft was rejected, fills them in anew
from what the CPU had hoped for."""

BY_NAME = "for which vLLM looks at the name of the model's class"
"""Why a model of our own class cannot have another one that drafts for it, where vLLM's list of
classes has the stock one."""


def check_drafts_from_text(engine_args: EngineArgs, why: str) -> None:
    """Raise ValueError for speculative decoding by anything but token ids.

    Args:
        why: what is wrong with other methods, as a part of the sentence.
    """
    drafts = _method(engine_args)
    if drafts not in (None, *FROM_TEXT):
        raise ValueError(
            f"the script plugin cannot prune this model with speculative decoding by {drafts}, "
            f"{why}; give --speculative-config another method ({', '.join(FROM_TEXT)}), or remove "
            "it"
        )


def _method(engine_args: EngineArgs) -> str | None:
    """Name of the method of speculative decoding, or of the model it drafts with; None without."""
    options = engine_args.speculative_config or {}
    method = options.get("method") or engine_args.spec_method
    model = options.get("model") or engine_args.spec_model
    if method is None and model is None:
        return "the checkpoint's own" if options or engine_args.spec_tokens else None
    return str(method or model).strip("[]")
