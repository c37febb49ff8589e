"""Preprocessing: what the worker is sent of each item, its pixels and its plan.

Keeps nothing of a request on `self`, for one instance serves concurrent ones: items.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import ImageProcessorItems, MultiModalDataItems
from vllm.multimodal.processing import BaseMultiModalProcessor, ProcessorInputs

from ..config import ScriptConfig
from ..identity import image_key
from ..layout import Layout
from ..wire import own_configs, own_fields, put_together, take_apart
from .counting import ItemCounter
from .items import ORDERS_KEY, Order, take_orders
from .metrics import metrics
from .pixel_cache import PixelCache, PixelFields


class Preprocessor(BaseMultiModalProcessor):
    """Mixin that adds plans to what vLLM's processor makes of items, or the cache has of them."""

    modalities: tuple[str, ...] = ("image",)
    """What is pruned; the rest passes through."""

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)
        config = ScriptConfig.of(info.get_hf_config())
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

    def _layout(self, items: Any, index: int, kwargs: Mapping[str, object]) -> Layout | None:
        """Layout of an image by its size; None where that is not known, as that of a video."""
        if not isinstance(items, ImageProcessorItems) or items.get(index) is None:
            return None
        size = items.get_image_size(index)
        return self.image_layout(size.height, size.width, kwargs)

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
