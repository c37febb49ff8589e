"""The multimodal processor's part: plans in, placeholder counts, identifiers and fields out.

`PruningProcessor` goes before a stock processor in the bases of a subclass. It keeps nothing on
`self`: one instance serves concurrent requests, so the plans travel in the processor's keyword
arguments and are taken out before anything stock sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageEmbeddingItems, MultiModalDataItems
from vllm.multimodal.processing import BaseMultiModalProcessor, ProcessorInputs
from vllm.multimodal.processing.processor import cached_encode

from .config import ScriptConfig
from .identity import identifier
from .layout import Layout
from .plan import Plan, make_plan, reads_query
from .relevance.windows import MAX_WINDOWS, clip_windows, first_and_last

REQUEST_KEY = "script"
"""Key in `mm_processor_kwargs` that carries a `ScriptRequest` from the renderer to `apply`."""

_PLANS_KEY = "script_plans"
"""Key that carries the images' plans, list[Plan | None], from `apply` to its overridden steps."""

PLAN_FIELD = "script_plan"
"""Field of an image's kwargs: its plan's bytes, uint8 [length]; empty to leave it whole."""

COUNT_FIELD = "script_count"
"""Field of an image's kwargs: rows its placeholders expect, int64 []; 0 where the plan is empty."""


@dataclass(frozen=True)
class ScriptRequest:
    """What the renderer knows about a request's pruning."""

    config: ScriptConfig
    """Settings in force for the request."""

    queries: Sequence[str] | str
    """Conditioning text of each image in prompt order, or one text that the client chose."""

    asked: bool = False
    """Whether the client itself asked for pruning, rather than the server's settings."""


class PruningProcessor(BaseMultiModalProcessor):
    """Mixin that gives each image its plan and sizes its placeholders to it."""

    def layout_of(self, height: int, width: int) -> Layout:
        """Layout of an image of that size in pixels. Families implement it."""
        raise NotImplementedError

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        request = kwargs.pop(REQUEST_KEY, None) or self._profiling_request()
        kwargs[_PLANS_KEY] = self._plans(inputs.mm_data_items, request)
        return super().apply(replace(inputs, hf_processor_mm_kwargs=kwargs), timing_ctx)

    def _profiling_request(self) -> ScriptRequest:
        """The largest request there can be: only dummy inputs arrive without one."""
        config = ScriptConfig.from_dict(self.info.get_hf_config().vllm_script)
        largest = replace(config, keep_ratio=config.max_keep_ratio, visual_token_budget=None)
        return ScriptRequest(largest, "What is shown in the image?")

    def _plans(self, items: MultiModalDataItems, request: ScriptRequest) -> list[Plan | None]:
        images = items.get("image")
        if images is None:
            return []
        if isinstance(images, ImageEmbeddingItems):
            if request.asked and request.config.keep_ratio != 1:
                raise VLLMValidationError(
                    "image_embeds cannot be pruned: where their rows come from is not known; "
                    "send the image, or leave `script` out of the request",
                    parameter="script",
                )
            return [None] * len(images)
        queries = request.queries
        if isinstance(queries, str):
            queries = [queries] * len(images)
        if len(queries) != len(images):
            raise VLLMValidationError(
                f"the prompt has {len(queries)} image placeholders for {len(images)} images"
            )
        plans: list[Plan | None] = []
        for index, query in enumerate(queries):
            plan = make_plan(request.config, self._query(request, query))
            plans.append(plan if self._prunes(plan, images, index, request.config) else None)
        return plans

    def _query(self, request: ScriptRequest, text: str) -> list[tuple[int, ...]]:
        """The query in windows of token ids, for the request's source of relevance."""
        config = request.config
        if not text or not reads_query(config):
            return []
        if config.relevance == "clip":
            assert config.clip_model is not None
            windows = clip_windows(config.clip_model, text)
            if len(windows) > MAX_WINDOWS and isinstance(request.queries, str):
                raise VLLMValidationError(
                    f"query must fit in {MAX_WINDOWS} windows of CLIP's text tower, got "
                    f"{len(windows)}; shorten it to what to look for in the image",
                    parameter="script",
                )
            return first_and_last(windows)
        token_ids = cached_encode(self.info.get_tokenizer(), text, add_special_tokens=False)
        vocab_size = self.info.get_hf_config().text_config.vocab_size
        known = tuple(token_id for token_id in token_ids if token_id < vocab_size)
        return [known] if known else []

    def _prunes(self, plan: Plan, images: Any, index: int, config: ScriptConfig) -> bool:
        if images.get(index) is None:  # a reference by uuid alone: the size is not known here
            return plan.keep_ratio != 1
        layout = self._layout(images, index)
        num_kept = plan.num_kept(layout.num_placeholders, layout.num_patches)
        limit = plan_limit(config, layout)
        if (num_kept or layout.num_placeholders) > limit:
            raise VLLMValidationError(
                f"image {index} would keep {num_kept or layout.num_placeholders} visual tokens, "
                f"the server allows {limit} (--max-keep-ratio {config.max_keep_ratio:g}); "
                "ask for less, or restart the server with a larger limit",
                parameter="script",
            )
        return num_kept is not None

    def _layout(self, images: Any, index: int) -> Layout:
        size = images.get_image_size(index)
        return self.layout_of(size.height, size.width)

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> Any:
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        plans = kwargs.pop(_PLANS_KEY)
        hashes = super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=kwargs))
        if "image" not in hashes:
            return hashes
        images = [identifier(*pair) for pair in zip(hashes["image"], plans, strict=True)]
        return {**hashes, "image": images}

    def _get_cache_missing_processor_kwargs(
        self, inputs: ProcessorInputs, mm_is_cached: Mapping[str, list[bool]]
    ) -> Mapping[str, object]:
        kwargs = dict(super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached))
        cached = mm_is_cached.get("image", [])
        plans: Any = kwargs[_PLANS_KEY]
        kwargs[_PLANS_KEY] = [p for p, hit in zip(plans, cached, strict=True) if not hit]
        return kwargs

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> Any:
        plans, stock_kwargs = _split(hf_kwargs)
        processed = super()._apply_hf_processor_main(mm_items, stock_kwargs)
        if any(plans):
            processed[PLAN_FIELD] = [_as_tensor(plan) for plan in plans]
            processed[COUNT_FIELD] = [
                torch.tensor(self._count(plan, mm_items["image"], index))
                for index, plan in enumerate(plans)
            ]
        return processed

    def _count(self, plan: Plan | None, images: Any, index: int) -> int:
        """Placeholders of an image that is pruned, 0 for one that is left whole."""
        if plan is None:
            return 0
        layout = self._layout(images, index)
        return plan.num_kept(layout.num_placeholders, layout.num_patches) or 0

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        _, stock_kwargs = _split(hf_processor_mm_kwargs)
        return {
            **super()._get_mm_fields_config(hf_inputs, stock_kwargs),
            PLAN_FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
            COUNT_FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: Any,
    ) -> Sequence[Any]:
        plans, stock_kwargs = _split(hf_processor_mm_kwargs)
        (update,) = super()._get_prompt_updates(mm_items, stock_kwargs, out_mm_kwargs)

        def replacement(index: int) -> Any:
            count = self._count(plans[index], mm_items["image"], index)
            return update.target * count if count else update.replacement(index)

        return [replace(update, replacement=replacement)]


def plan_limit(config: ScriptConfig, layout: Layout) -> int:
    """Most rows that an image of this layout may keep under `max_keep_ratio`."""
    largest = replace(config, keep_ratio=config.max_keep_ratio, visual_token_budget=None)
    kept = make_plan(largest, ()).num_kept(layout.num_placeholders, layout.num_patches)
    return kept or layout.num_placeholders


def _split(kwargs: Mapping[str, object]) -> tuple[list[Plan | None], dict[str, object]]:
    stock_kwargs = dict(kwargs)
    plans: Any = stock_kwargs.pop(_PLANS_KEY)
    return plans, stock_kwargs


def _as_tensor(plan: Plan | None) -> torch.Tensor:
    data = b"" if plan is None else plan.encode()
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
