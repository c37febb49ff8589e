"""How much of a step's encoder work an item is: its visual tokens before pruning.

vLLM's scheduler has a budget of encoder work for every step, and counts in placeholders, which of a
pruned item are a few of the tokens that its encoding takes. By that count a step would encode
1/keep_ratio times what stock vLLM lets in, while everybody else's tokens wait for it and the pixels
of all these items lie on the device. The space that rows take in the encoder cache is counted in
placeholders too, and there that is right.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

from ..wire import packed_total


class ScriptEncoderCacheManager(EncoderCacheManager):
    """Lets as much into a step as stock vLLM would, and the first item in any case.

    The scheduler asks `can_allocate` of one item after the other, takes the placeholders of those
    that fit off its budget, and ends the step with `get_freed_mm_hashes`. What encoding takes
    beyond the placeholders is added up here. Whether our feature cache has an item is not known in
    the scheduler, so it counts as if it had not.
    """

    def __init__(self, cache_size: int) -> None:
        super().__init__(cache_size)
        self._begun = False
        self._uncounted = 0

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
        total = packed_total(feature.data or {}, feature.modality)
        uncounted = 0 if total is None else total - request.get_num_encoder_embeds(input_id)
        if self._begun:  # else an item that is larger than the whole budget would wait for ever
            encoder_compute_budget -= self._uncounted + uncounted
        fits: bool = super().can_allocate(
            request, input_id, encoder_compute_budget, num_embeds_to_schedule
        )
        if fits:
            self._begun = True
            self._uncounted += uncounted
        return fits

    def get_freed_mm_hashes(self) -> list[str]:
        """Return stock's list; the scheduler asks for it once, at the end of a step."""
        self._begun, self._uncounted = False, 0
        freed: list[str] = super().get_freed_mm_hashes()
        return freed
