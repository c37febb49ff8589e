"""How much of a step's encoder work an item is: its visual tokens before pruning.

vLLM's scheduler bounds a step twice: by its tokens, and by a budget of encoder work, which has room
for the largest item. It counts both in placeholders, and of a pruned item they are a few of the
tokens that its encoding takes. By that count a step would encode 1/keep_ratio times what stock vLLM
lets in, while everybody else's tokens wait for it and the pixels of all these items lie on the
device. The space that rows take in the encoder cache is counted in placeholders too, and there that
is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

from ..patches.field_types import register_field
from ..wire import PRUNING_FIELD, PruningField, packed_total
from .row_folder import RowFolder


def step_tokens(vllm_config: Any) -> int:
    """Return how many tokens the scheduler puts into a step at most.

    The pruned items of a step have no more before pruning, but where there is one alone.
    """
    config = vllm_config.scheduler_config
    most: int = config.max_num_scheduled_tokens or config.max_num_batched_tokens
    return most


class _Work(NamedTuple):
    """What encoding some items takes."""

    tokens: int = 0
    """Tokens before pruning."""
    hidden: int = 0
    """Those among them that are no placeholders, of which the scheduler knows nothing."""

    def __add__(self, other: _Work) -> _Work:  # type: ignore[override]
        return _Work(self.tokens + other.tokens, self.hidden + other.hidden)


class ScriptEncoderCacheManager(EncoderCacheManager):
    """Lets as much into a step as stock vLLM would, and the first item in any case.

    The scheduler asks `can_allocate` of one item of a request after the other. Where the request
    gets its place in the step it calls `allocate` for those that fitted, and takes their
    placeholders off its budget. It ends the step with `get_freed_mm_hashes`. What encoding takes is
    added up here. Whether our feature cache has an item is not known in the scheduler, so it counts
    as if it had not. An item whose rows an encoder instance has left costs nothing, as in stock's
    scheduler, and a step that has no pruned item is stock's.

    Args:
        cache_size: of the encoder cache, in rows.
        step_tokens: how many tokens the scheduler puts into a step at most.
        has_rows: whether an encoder instance has left the rows of an image, by its identifier.
    """

    @classmethod
    def create_manager(cls, *, cache_size: int, vllm_config: Any) -> ScriptEncoderCacheManager:
        register_field(PruningField, PRUNING_FIELD)  # before the engine reads any request
        if vllm_config.ec_transfer_config is None:
            return cls(cache_size, step_tokens(vllm_config))
        return cls(cache_size, step_tokens(vllm_config), RowFolder(vllm_config).__contains__)

    def __init__(
        self,
        cache_size: int,
        step_tokens: int,
        has_rows: Callable[[str], bool] = lambda identifier: False,
    ) -> None:
        super().__init__(cache_size)
        self._step_tokens = step_tokens
        self._has_rows = has_rows
        self._step = _Work()
        """Of the items that are in the step."""
        self._asked: dict[int, _Work] = {}
        """Of each item of the request that is being asked about, which fitted so far."""
        self._asking: str | None = None
        """Name of that request."""

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
        if request.request_id != self._asking:
            self._asking, self._asked = request.request_id, {}
        own, others = self._work_of(request, input_id), sum(self._asked.values(), self._step)
        # The first item is let in: one that is larger than a step would wait for ever.
        if own.tokens and others.tokens and others.hidden + own.hidden:
            left = min(encoder_compute_budget - others.hidden, self._step_tokens - others.tokens)
            encoder_compute_budget = left - own.hidden
        fits: bool = super().can_allocate(
            request, input_id, encoder_compute_budget, num_embeds_to_schedule
        )
        if fits:
            self._asked[input_id] = own
        return fits

    def allocate(self, request: Any, input_id: int) -> None:
        """Reserve space for the rows of an item that is in the step, as stock's method."""
        super().allocate(request, input_id)
        self._step += self._asked[input_id]
        self._asking = None

    def get_freed_mm_hashes(self) -> list[str]:
        """Return stock's list; the scheduler asks for it once, at the end of a step."""
        self._step, self._asking = _Work(), None
        freed: list[str] = super().get_freed_mm_hashes()
        return freed

    def _work_of(self, request: Any, input_id: int) -> _Work:
        """What encoding an item of vLLM's `Request` takes: nothing where its rows are there."""
        feature = request.mm_features[input_id]
        if self._has_rows(feature.identifier):
            return _Work()
        rows = request.get_num_encoder_embeds(input_id)
        total = packed_total(feature.data or {}, feature.modality) or rows
        return _Work(total, total - rows)
