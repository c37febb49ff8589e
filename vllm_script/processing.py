"""The multimodal processor's part: plans in, placeholder counts, identifiers and fields out.

`PruningProcessor` goes before a stock processor in the bases of a subclass. It keeps nothing on
`self`: one instance serves concurrent requests, so the plans travel in the processor's keyword
arguments and are taken out before anything stock sees them.
"""

from __future__ import annotations

from abc import abstractmethod
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

    @abstractmethod
    def layout_of(self, height: int, width: int) -> Layout:
        """Layout of an image of that size in pixels. Families implement it."""

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        if not isinstance(request := kwargs.pop(REQUEST_KEY, None), ScriptRequest):
            raise RuntimeError("the prompt did not pass through the renderer of the script plugin")
        kwargs[_PLANS_KEY] = self._plans(inputs.mm_data_items, request)
        return super().apply(replace(inputs, hf_processor_mm_kwargs=kwargs), timing_ctx)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """Dummies for memory profiling and for the encoder cache's size: the most one may keep."""
        inputs = super().get_dummy_inputs(*args, **kwargs)
        self._check_layouts(inputs.mm_data_items)
        config = ScriptConfig.from_dict(self.info.get_hf_config().vllm_script)
        request = ScriptRequest(_at_most(config), "What is shown in the image?")
        kwargs = {**inputs.hf_processor_mm_kwargs, REQUEST_KEY: request}
        return replace(inputs, hf_processor_mm_kwargs=kwargs)

    def _check_layouts(self, items: MultiModalDataItems) -> None:
        """End the start-up where our layout of the dummy images is not vLLM's."""
        images: Any = items.get("image") or ()
        for index in range(len(images)):
            size = images.get_image_size(index)
            stock = self.info.get_num_image_tokens(image_width=size.width, image_height=size.height)
            if stock != (ours := self._layout(images, index).num_placeholders):
                raise RuntimeError(
                    f"vLLM gives an image of {size.width}x{size.height} {stock} placeholders, "
                    f"the script plugin {ours}: it does not know this model"
                )

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
        return [self._plan(request, query, images, i) for i, query in enumerate(queries)]

    def _plan(self, request: ScriptRequest, query: str, images: Any, index: int) -> Plan | None:
        config = request.config
        plan = make_plan(config, self._query(request, query))
        if images.get(index) is None:  # a reference by uuid alone: the size is not known here
            return None if plan.keep_ratio == 1 else plan
        layout = self._layout(images, index)
        limit = num_rows(make_plan(_at_most(config), ()), layout)
        wanted = num_rows(plan, layout)
        if wanted > limit and request.asked:
            raise VLLMValidationError(
                f"image {index} would keep {wanted} visual tokens, the server allows {limit} of "
                f"its {layout.num_placeholders} (--max-keep-ratio {config.max_keep_ratio:g}); "
                "ask for less, or start the server with a larger limit",
                parameter="script",
            )
        if wanted > limit:
            plan = make_plan(_at_most(config), self._query(request, query))
        return plan if num_rows(plan, layout) < layout.num_placeholders else None

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
        return 0 if plan is None else num_rows(plan, self._layout(images, index))

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


def num_rows(plan: Plan, layout: Layout) -> int:
    """Rows of an image that stay, all of them where the plan leaves it whole."""
    kept = plan.num_kept(layout.num_placeholders, layout.num_patches)
    return layout.num_placeholders if kept is None else kept


def _at_most(config: ScriptConfig) -> ScriptConfig:
    """The settings with the largest share that a request may keep."""
    return replace(config, keep_ratio=config.max_keep_ratio, visual_token_budget=None)


def _split(kwargs: Mapping[str, object]) -> tuple[list[Plan | None], dict[str, object]]:
    stock_kwargs = dict(kwargs)
    plans: Any = stock_kwargs.pop(_PLANS_KEY, [])
    return plans, stock_kwargs


def _as_tensor(plan: Plan | None) -> torch.Tensor:
    data = b"" if plan is None else plan.encode()
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
