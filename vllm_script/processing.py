"""The multimodal processor's part: plans in, placeholder counts, identifiers and fields out.

`PruningProcessor` goes before a stock processor in the bases of a subclass. It keeps nothing of a
request on `self`, for one instance serves concurrent ones: orders.py.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageEmbeddingItems, MultiModalDataItems
from vllm.multimodal.processing import BaseMultiModalProcessor, ProcessorInputs
from vllm.multimodal.processing.processor import cached_encode

from .config import ScriptConfig
from .explanation import ExplainedImage, with_explain_id
from .identity import identifier
from .layout import Layout
from .metrics import metrics
from .orders import HASHES_KEY, ORDERS_KEY, make_orders, take_orders
from .pixel_cache import PixelCache, PixelFields
from .plan import Plan, make_plan, reads_query
from .refusal import refusal
from .relevance.windows import MAX_WINDOWS, clip_windows, first_and_last
from .requested import REQUEST_KEY, ScriptRequest

PLAN_FIELD = "script_plan"
"""Field of an image's kwargs: its plan's bytes, uint8 [length]; empty to leave it whole."""

COUNT_FIELD = "script_count"
"""Field of an image's kwargs: rows its placeholders expect, int64 []; 0 where the plan is empty."""

KEY_FIELD = "script_key"
"""Field of an image's kwargs: its key in the worker's cache, uint8 [16]; empty to keep it out."""


class PruningProcessor(BaseMultiModalProcessor):
    """Mixin that gives each image its plan and sizes its placeholders to it."""

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)
        config = ScriptConfig.from_dict(info.get_hf_config().vllm_script)
        self.pixel_cache = PixelCache(config.cache_gb)

    @abstractmethod
    def layout_of(self, height: int, width: int) -> Layout:
        """Layout of an image of that size in pixels. Families implement it."""

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        if not isinstance(request := kwargs.pop(REQUEST_KEY, None), ScriptRequest):
            raise RuntimeError("the prompt did not pass through the renderer of the script plugin")
        plans = self._plans(inputs.mm_data_items, request)
        if request.explained is not None:
            plans = list(map(with_explain_id, plans))
        with timing_ctx.record("get_mm_hashes"):
            hashes = dict(super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=kwargs)))
        kwargs[ORDERS_KEY] = []
        if "image" in hashes:
            images = inputs.mm_data_items["image"]
            caching = request.config.cache_gb > 0
            kwargs[ORDERS_KEY] = make_orders(plans, hashes["image"], images, caching)
            hashes["image"] = list(map(identifier, hashes["image"], plans))
        kwargs[HASHES_KEY] = hashes
        processed = super().apply(replace(inputs, hf_processor_mm_kwargs=kwargs), timing_ctx)
        if request.counted:
            self._count_images(request, plans, inputs.mm_data_items.get("image"))
        if request.explained is not None:
            request.explained.extend(self._explained(request, plans, inputs.mm_data_items))
        return processed

    def _count_images(
        self, request: ScriptRequest, plans: Sequence[Plan | None], images: Any
    ) -> None:
        for index, plan in enumerate(plans):
            # Of an image that came as its uuid alone the size is not known, so it is left out.
            if plan is not None and images.get(index) is not None:
                kept = self._count(plan, images, index)
                total = self._layout(images, index).num_placeholders
                query = request.query_source if plan.query else "none"
                metrics().count_image(plan.mode, plan.relevance, query, total, kept)

    def _explained(
        self, request: ScriptRequest, plans: Sequence[Plan | None], items: MultiModalDataItems
    ) -> Iterator[ExplainedImage]:
        images: Any = items.get("image")
        for index, plan in enumerate(plans):
            if isinstance(images, ImageEmbeddingItems) or images.get(index) is None:
                raise VLLMValidationError(
                    f"image {index} cannot be shown: send the picture itself, not its uuid alone "
                    "and not image_embeds",
                    parameter="messages",
                )
            reads = plan is not None and len(plan.query) > 0
            yield ExplainedImage(
                images.get(index),
                self._layout(images, index),
                plan,
                request.query_of(index) if reads else "",
                request.query_source if reads else "none",
            )

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """Dummies for memory profiling and for the encoder cache's size: the most one may keep.

        They are not cached, so that every one of a profiled batch is encoded.
        """
        inputs = super().get_dummy_inputs(*args, **kwargs)
        self._check_layouts(inputs.mm_data_items)
        config = ScriptConfig.from_dict(self.info.get_hf_config().vllm_script)
        config = replace(_at_most(config), cache_gb=0)
        request = ScriptRequest(config, "What is shown in the image?", counted=False)
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
                raise refusal(
                    "image_embeds",
                    "image_embeds cannot be pruned: where their rows come from is not known; "
                    "send the image, or leave `script` out of the request",
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
            raise refusal(
                "max_keep_ratio",
                f"image {index} would keep {wanted} visual tokens, the server allows {limit} of "
                f"its {layout.num_placeholders} (--max-keep-ratio {config.max_keep_ratio:g}); "
                "ask for less, or start the server with a larger limit",
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
                raise refusal(
                    "query",
                    f"query must fit in {MAX_WINDOWS} windows of CLIP's text tower, got "
                    f"{len(windows)}; shorten it to what to look for in the image",
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
        return inputs.hf_processor_mm_kwargs[HASHES_KEY]

    def _get_cache_missing_processor_kwargs(
        self, inputs: ProcessorInputs, mm_is_cached: Mapping[str, list[bool]]
    ) -> Mapping[str, object]:
        kwargs = dict(super()._get_cache_missing_processor_kwargs(inputs, mm_is_cached))
        cached = mm_is_cached.get("image", [])
        orders: Any = kwargs[ORDERS_KEY]
        kwargs[ORDERS_KEY] = [o for o, hit in zip(orders, cached, strict=True) if not hit]
        return kwargs

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> Any:
        orders, stock_kwargs = take_orders(hf_kwargs)
        if not any(order.plan for order in orders):
            return super()._apply_hf_processor_main(mm_items, stock_kwargs)
        images: Any = mm_items["image"]
        batch: dict[str, list[torch.Tensor]] = {}
        for index, order in enumerate(orders):
            fields = {
                **self._pixels(images[index], order.key, stock_kwargs),
                PLAN_FIELD: _as_tensor(order.plan.encode() if order.plan else b""),
                COUNT_FIELD: torch.tensor(self._count(order.plan, images, index)),
                KEY_FIELD: _as_tensor(order.key),
            }
            for name, tensor in fields.items():
                batch.setdefault(name, []).append(tensor)
        return BatchFeature(batch)

    def _pixels(self, image: Any, key: bytes, stock_kwargs: Mapping[str, object]) -> PixelFields:
        """What the Hugging Face processor makes of one image, from the cache if it is there.

        One at a time: LLaVA-NeXT fills up the tiles of images that are processed together, which
        would make what is cached of one depend on the others.
        """
        if key and (known := self.pixel_cache.get(key)):
            metrics().cache_hits.labels("pixels").inc()
            return known
        items = self.info.parse_mm_data({"image": [image]}, validate=False)
        with metrics().preprocess_seconds.time():
            processed = super()._apply_hf_processor_main(items, stock_kwargs)
        names = super()._get_mm_fields_config(processed, stock_kwargs)
        fields = {name: processed[name][0] for name in names if name in processed}
        if key:
            self.pixel_cache.put(key, fields)
            metrics().cache_misses.labels("pixels").inc()
            metrics().cache_bytes.labels("pixels").set(self.pixel_cache.num_bytes)
        return fields

    def _count(self, plan: Plan | None, images: Any, index: int) -> int:
        """Placeholders of an image that is pruned, 0 for one that is left whole."""
        return 0 if plan is None else num_rows(plan, self._layout(images, index))

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        _, stock_kwargs = take_orders(hf_processor_mm_kwargs)
        return {
            **super()._get_mm_fields_config(hf_inputs, stock_kwargs),
            PLAN_FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
            COUNT_FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
            KEY_FIELD: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: Any,
    ) -> Sequence[Any]:
        orders, stock_kwargs = take_orders(hf_processor_mm_kwargs)
        (update,) = super()._get_prompt_updates(mm_items, stock_kwargs, out_mm_kwargs)

        def replacement(index: int) -> Any:
            count = self._count(orders[index].plan, mm_items["image"], index)
            return update.target * count if count else update.replacement(index)

        return [replace(update, replacement=replacement)]


def num_rows(plan: Plan, layout: Layout) -> int:
    """Rows of an image that stay, all of them where the plan leaves it whole."""
    kept = plan.num_kept(layout.num_placeholders, layout.num_patches)
    return layout.num_placeholders if kept is None else kept


def _at_most(config: ScriptConfig) -> ScriptConfig:
    """The settings with the largest share that a request may keep."""
    return replace(config, keep_ratio=config.max_keep_ratio, visual_token_budget=None)


def _as_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
