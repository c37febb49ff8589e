"""How much of a step's encoder work an item is: its visual tokens before pruning.

vLLM's scheduler bounds a step twice: by its tokens, and by a budget of encoder work, which has room
for the largest item. It counts both in placeholders, and of a pruned item they are a few of the
tokens that its encoding takes. By that count a step would encode 1/keep_ratio times what stock vLLM
lets in, while everybody else's tokens wait for it and the pixels of all these items lie on the
device. The space that rows take in the encoder cache is counted in placeholders too, and there that
is right.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

from ..wire import packed_total


class ScriptEncoderCacheManager(EncoderCacheManager):
    """Lets as much into a step as stock vLLM would, and the first item in any case.

    The scheduler asks `can_allocate` of one item after the other, takes the placeholders of those
    that fit off its budget, and ends the step with `get_freed_mm_hashes`. What encoding takes is
    added up here. Whether our feature cache has an item is not known in the scheduler, so it counts
    as if it had not. A step that has no pruned item is stock's.

    Args:
        cache_size: of the encoder cache, in rows.
        step_tokens: how many tokens the scheduler puts into a step at most.
    """

    @classmethod
    def create_manager(cls, *, cache_size: int, vllm_config: Any) -> ScriptEncoderCacheManager:
        config = vllm_config.scheduler_config
        return cls(cache_size, config.max_num_scheduled_tokens or config.max_num_batched_tokens)

    def __init__(self, cache_size: int, step_tokens: int) -> None:
        super().__init__(cache_size)
        self._step_tokens = step_tokens
        self._work = 0
        """Tokens before pruning of the items that are in the step."""
        self._hidden = 0
        """Those among them that are no placeholders, of which the scheduler knows nothing."""

    def can_allocate(
        self,
        request: Any,
        input_id: int,
        encoder_compute_budget: int,
        num_embeds_to_schedule: int,
    ) -> bool:
        """Whether an item fits in the step and its rows in the cache, as stock's method.

        Args:
            request: vLLM's `Request`, whose item `input_id` it is.
            encoder_compute_budget: placeholders that may still be encoded in this step.
            num_embeds_to_schedule: placeholders of the request's items that fitted before.
        """
        feature = request.mm_features[input_id]
        rows = request.get_num_encoder_embeds(input_id)
        total = packed_total(feature.data or {}, feature.modality) or rows
        hidden = total - rows
        # The first item is let in: one that is larger than a step would wait for ever.
        if self._work and self._hidden + hidden:
            left = min(encoder_compute_budget - self._hidden, self._step_tokens - self._work)
            encoder_compute_budget = left - hidden
        fits: bool = super().can_allocate(
            request, input_id, encoder_compute_budget, num_embeds_to_schedule
        )
        if fits:
            self._work += total
            self._hidden += hidden
        return fits

    def get_freed_mm_hashes(self) -> list[str]:
        """Return stock's list; the scheduler asks for it once, at the end of a step."""
        self._work = self._hidden = 0
        freed: list[str] = super().get_freed_mm_hashes()
        return freed
