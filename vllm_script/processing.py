"""The multimodal processor's part: plans in, placeholder counts, identifiers and fields out.

`PruningProcessor` goes before a stock processor in the bases of a subclass. It keeps nothing of a
request on `self`, for one instance serves concurrent ones: orders.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import (
    DictEmbeddingItems,
    EmbeddingItems,
    ImageProcessorItems,
    MultiModalDataItems,
)
from vllm.multimodal.processing import BaseMultiModalProcessor, ProcessorInputs

from .config import ScriptConfig
from .counting import ItemCounter
from .explanation import ExplainedImage, with_explain_id
from .fields import (
    COUNT_FIELD,
    field_name,
    own_configs,
    own_fields,
    put_together,
    take_apart,
)
from .identity import image_key
from .layout import Layout
from .metrics import metrics
from .orders import HASHES_KEY, ORDERS_KEY, Order, make_orders, take_orders
from .pixel_cache import PixelCache, PixelFields
from .placeholders import placeholder_mask, shortened
from .plan import Plan
from .planning import at_most, plan_item, query_windows
from .refusal import refusal
from .requested import REQUEST_KEY, ScriptRequest


class PruningProcessor(BaseMultiModalProcessor):
    """Mixin that gives each item its plan and sizes its placeholders to it."""

    modalities: tuple[str, ...] = ("image",)
    """What is pruned; the rest passes through."""

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)
        config = ScriptConfig.from_dict(info.get_hf_config().vllm_script)
        self.pixel_cache = PixelCache(config.cache_gb)
        self.counter = ItemCounter()

    def image_layout(self, height: int, width: int, kwargs: Mapping[str, object]) -> Layout:
        """Layout of an image of that size in pixels. Families that prune images implement it.

        Args:
            kwargs: the request's `mm_processor_kwargs`.
        """
        raise NotImplementedError

    def video_layout(self, fields: Mapping[str, Any]) -> Layout:
        """Layout of a video that has been processed. Families that prune videos implement it."""
        raise NotImplementedError

    def token(self, modality: str) -> str:
        """What stands for an item in a prompt."""
        return getattr(self.info.get_hf_processor(), f"{modality}_token")

    def placeholder(self, modality: str) -> str:
        """That token with what the chat template writes around it."""
        return self.token(modality)

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        if not isinstance(request := kwargs.pop(REQUEST_KEY, None), ScriptRequest):
            raise RuntimeError("the prompt did not pass through the renderer of the script plugin")
        items = {m: inputs.mm_data_items[m] for m in self.modalities if m in inputs.mm_data_items}
        plans = {m: self._plans(m, items[m], request, kwargs) for m in items}
        if request.explained is not None:
            plans = {m: list(map(with_explain_id, plans[m])) for m in plans}
        with timing_ctx.record("get_mm_hashes"):
            hashes = dict(super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=kwargs)))
        orders = {}
        for modality in items:
            stock_hashes, caching = hashes[modality], request.config.cache_gb > 0
            orders[modality] = make_orders(plans[modality], stock_hashes, items[modality], caching)
            hashes[modality] = [order.identifier for order in orders[modality]]
        ours = {ORDERS_KEY: orders, HASHES_KEY: hashes}
        processed = super().apply(replace(inputs, hf_processor_mm_kwargs=kwargs | ours), timing_ctx)
        if request.counted:
            self._check_prompt(processed, plans)
            for modality, own in items.items():
                spans = processed["mm_placeholders"][modality]
                layout_of = partial(self._layout, own, kwargs=kwargs)
                self.counter.count(request, own, orders[modality], spans, layout_of)
        if request.explained is not None and "image" in items:
            explained = self._explained(request, plans["image"], items["image"], kwargs)
            request.explained.extend(explained)
        return processed

    def _check_prompt(self, processed: Any, plans: Mapping[str, Sequence[Plan | None]]) -> None:
        """Refuse a prompt whose items do not stand where the model can prune them."""

    def _explained(
        self,
        request: ScriptRequest,
        plans: Sequence[Plan | None],
        images: Any,
        kwargs: Mapping[str, object],
    ) -> Iterator[ExplainedImage]:
        queries = request.queries_of("image", len(plans))
        for index, (plan, query) in enumerate(zip(plans, queries, strict=True)):
            layout = self._layout(images, index, kwargs)
            if layout is None:
                raise VLLMValidationError(
                    f"image {index} cannot be shown: send the picture itself, not its uuid alone "
                    "and not image_embeds",
                    parameter="messages",
                )
            reads = plan is not None and len(plan.query) > 0
            source = request.query_source if reads else "none"
            picture = images.get(index)
            yield ExplainedImage(picture, layout, plan, query if reads else "", source)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """Dummies for memory profiling and for the encoder cache's size: the most one may keep.

        They are not cached, so that every one of a profiled batch is encoded.
        """
        inputs = super().get_dummy_inputs(*args, **kwargs)
        config = ScriptConfig.from_dict(self.info.get_hf_config().vllm_script)
        config = replace(at_most(config), cache_gb=0)
        request = ScriptRequest(config, "What is shown in the image?", counted=False)
        kwargs = {**inputs.hf_processor_mm_kwargs, REQUEST_KEY: request}
        return replace(inputs, hf_processor_mm_kwargs=kwargs)

    def _plans(
        self, modality: str, items: Any, request: ScriptRequest, kwargs: Mapping[str, object]
    ) -> list[Plan | None]:
        if isinstance(items, EmbeddingItems | DictEmbeddingItems):
            if request.asked and request.config.keep_ratio != 1:
                raise refusal(
                    "image_embeds",
                    f"{modality}_embeds cannot be pruned: where their rows come from is not "
                    f"known; send the {modality}, or leave `script` out of the request",
                )
            return [None] * len(items)
        queries = request.queries_of(modality, len(items))
        if len(queries) != len(items):
            raise VLLMValidationError(
                f"the prompt has {len(queries)} {modality} placeholders for {len(items)} "
                f"{modality}s"
            )
        return [self._plan(request, q, items, i, kwargs) for i, q in enumerate(queries)]

    def _plan(
        self,
        request: ScriptRequest,
        query: str,
        items: Any,
        index: int,
        kwargs: Mapping[str, object],
    ) -> Plan | None:
        tokenizer = self.info.get_tokenizer()
        vocab_size = self.info.get_hf_config().get_text_config().vocab_size
        windows = query_windows(request, query, tokenizer, vocab_size)
        layout = self._layout(items, index, kwargs)
        return plan_item(request, windows, layout, f"{items.modality} {index}")

    def _layout(self, items: Any, index: int, kwargs: Mapping[str, object]) -> Layout | None:
        """Layout of an image by its size; None where that is not known, as that of a video."""
        if not isinstance(items, ImageProcessorItems) or items.get(index) is None:
            return None
        size = items.get_image_size(index)
        return self.image_layout(size.height, size.width, kwargs)

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> Any:
        return inputs.hf_processor_mm_kwargs[HASHES_KEY]

    def _get_cache_missing_processor_kwargs(
        self, inputs: ProcessorInputs, mm_is_cached: Mapping[str, list[bool]]
    ) -> Mapping[str, object]:
        orders, stock_kwargs = take_orders(inputs.hf_processor_mm_kwargs)
        stock_inputs = replace(inputs, hf_processor_mm_kwargs=stock_kwargs)
        missing = {
            m: [o for o, hit in zip(orders[m], mm_is_cached[m], strict=True) if not hit]
            for m in orders
        }
        kwargs = super()._get_cache_missing_processor_kwargs(stock_inputs, mm_is_cached)
        return {**kwargs, ORDERS_KEY: missing}

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> Any:
        orders, stock_kwargs = take_orders(hf_kwargs)
        pruned = [m for m in orders if any(order.plan for order in orders[m])]
        if not pruned:
            return super()._apply_hf_processor_main(mm_items, stock_kwargs)
        batch = BatchFeature()
        for modality, items in mm_items.items():
            if modality in pruned:
                batch.update(self._process(items, orders[modality], stock_kwargs))
            else:
                others = MultiModalDataItems({modality: items})
                batch.update(super()._apply_hf_processor_main(others, stock_kwargs))
        return batch

    def _process(
        self, items: Any, orders: Sequence[Order], stock_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        """Process items one by one, with their plans.

        LLaVA-NeXT fills up the tiles of images that are processed together, which would make what
        is cached of one depend on the others.
        """
        sent = []
        for index, order in enumerate(orders):
            kwargs = self._kwargs_of(items, index, stock_kwargs)
            fields = self._pixels(items.modality, items[index], order.key, kwargs)
            own = self._own_fields(items, index, order, fields, stock_kwargs)
            sent.append({**fields, **own})
        configs_of = super()._get_mm_fields_config
        return put_together(sent, lambda batch: configs_of(batch, stock_kwargs))

    def _kwargs_of(
        self, items: Any, index: int, stock_kwargs: Mapping[str, object]
    ) -> Mapping[str, object]:
        """The arguments for one item: there may be lists of them, such as a speed for each video.

        vLLM selects them as if all others were cached.
        """
        inputs = ProcessorInputs([], MultiModalDataItems(), hf_processor_mm_kwargs=stock_kwargs)
        others = {items.modality: [other != index for other in range(len(items))]}
        return super()._get_cache_missing_processor_kwargs(inputs, others)

    def _own_fields(
        self,
        items: Any,
        index: int,
        order: Order,
        fields: PixelFields,
        stock_kwargs: Mapping[str, object],
    ) -> dict[str, torch.Tensor]:
        modality, plan, key = items.modality, order.plan, order.key
        if plan is None:
            return own_fields(b"", 0, b"", modality)
        layout = self._layout(items, index, stock_kwargs)
        if layout is None:
            layout = self.video_layout(fields)
            self.counter.remember(order, layout)
            # Frames may be taken by what the file says of its speed, which is not in its shape.
            key = key and image_key(key.hex(), layout.num_frames, layout.num_placeholders)
        kept = plan.num_kept(*layout.counts)
        if kept is None:
            return own_fields(b"", 0, b"", modality)
        return own_fields(plan.encode(), kept, key, modality)

    def _pixels(
        self, modality: str, item: Any, key: bytes, stock_kwargs: Mapping[str, object]
    ) -> PixelFields:
        """What the Hugging Face processor makes of one item, from the cache if it is there."""
        if key and (known := self.pixel_cache.get(key)):
            metrics().cache_hits.labels("pixels").inc()
            return known
        items = self.info.parse_mm_data({modality: [item]}, validate=False)
        with metrics().preprocess_seconds.time():
            processed = super()._apply_hf_processor_main(items, stock_kwargs)
        configs = super()._get_mm_fields_config(processed, stock_kwargs)
        fields = take_apart(processed, configs, modality)
        if key:
            self.pixel_cache.put(key, fields)
            metrics().cache_misses.labels("pixels").inc()
            metrics().cache_bytes.labels("pixels").set(self.pixel_cache.num_bytes)
        return fields

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        _, stock_kwargs = take_orders(hf_processor_mm_kwargs)
        return {
            **super()._get_mm_fields_config(hf_inputs, stock_kwargs),
            **own_configs(self.modalities),
        }

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: Any,
    ) -> Sequence[Any]:
        _, stock_kwargs = take_orders(hf_processor_mm_kwargs)

        def sized(update: Any) -> Any:
            if update.modality not in self.modalities:
                return update

            def replacement(index: int) -> Any:
                content = update.content
                stock = content(index) if callable(content) else content
                items = mm_items[update.modality]
                self._check_layout(stock, self._layout(items, index, stock_kwargs))
                name = field_name(COUNT_FIELD, update.modality)
                count = out_mm_kwargs[update.modality][index].get(name)
                return shortened(stock, int(count.data)) if count and count.data else stock

            return replace(update, replacement=replacement)

        stock_updates = super()._get_prompt_updates(mm_items, stock_kwargs, out_mm_kwargs)
        return list(map(sized, stock_updates))

    def _check_layout(self, stock: Any, layout: Layout | None) -> None:
        """End the start-up, which sends dummies, where our layout of an image is not vLLM's."""
        length = int(placeholder_mask(stock).sum())
        if layout is not None and length != (ours := layout.num_placeholders):
            raise RuntimeError(
                f"vLLM gives an image {length} placeholders, the script plugin {ours}: it does "
                "not know this model"
            )
