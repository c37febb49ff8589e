"""The multimodal processor's part: plans in, identifiers, pixels and placeholder counts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from transformers.feature_extraction_utils import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import (
    DictEmbeddingItems,
    EmbeddingItems,
    ImageProcessorItems,
    MultiModalDataItems,
    VideoProcessorItems,
)
from vllm.multimodal.processing import BaseMultiModalProcessor, ProcessorInputs

from ..config import DEFAULT_CACHE_GB, ScriptConfig
from ..family import Family
from ..layout import Layout
from ..patches.field_types import register_field
from ..plan import Plan, image_key
from ..vllm_types import Items, PlaceholderRange
from ..wire import (
    PRUNING_FIELD,
    PackedItem,
    PruningField,
    field_configs,
    mark_dummies,
    pack,
    packed_count,
    packed_total,
    total_alone,
)
from .counts import check_layout, check_pixels, check_room
from .item_limit import ItemLimit, check_item
from .items import (
    CARRIED_KEY,
    Carried,
    PlannedItem,
    planned_items,
    put_together,
    take_apart,
    take_carried,
)
from .metrics import ItemCounter, metrics
from .pixel_cache import PixelCache, PixelFields
from .placeholders import shortened
from .planner import at_most, plan_item, query_windows
from .request import REQUEST_KEY, ScriptRequest, refusal


class PruningProcessor(BaseMultiModalProcessor):
    """Gives each item its plan and sizes its placeholders to it.

    It goes before a stock processor in the bases of a subclass, which names its `family`. vLLM
    calls the methods in the order in which they stand here:

    - at start-up `get_dummy_inputs`, for the items that memory is profiled with, and then as for
      any request:
    - `apply`, which makes the plans, asks stock vLLM for its hashes, and calls stock `apply`. That
      calls the rest:
    - `_get_mm_hashes`: the identifiers that `apply` has made;
    - `_get_cache_missing_processor_kwargs`: what is planned for the items that vLLM's cache lacks;
    - `_apply_hf_processor_main`: pixels of these items, each with its plan;
    - `_get_mm_fields_config`: how vLLM batches them;
    - `_get_prompt_updates`: the placeholders of each.

    One processor serves concurrent requests, so nothing of a request is kept on it: see items.py.
    """

    family: Family
    """How the model lays out items."""

    def __init__(self, info: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(info, *args, **kwargs)
        register_field(PruningField, PRUNING_FIELD)
        self._script_config = ScriptConfig.of(info.ctx.model_config)
        cache_gb = self._script_config.cache_gb
        self.pixel_cache = PixelCache(DEFAULT_CACHE_GB if cache_gb is None else cache_gb)
        self.counter = ItemCounter()
        self.item_limit = ItemLimit(self._script_config, self.family, info)

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """Return stock's dummies, each with the most that a request may keep, of the whole tower.

        vLLM profiles memory and sizes its encoder cache with them. They are kept out of our caches,
        so that every one of a profiled batch is encoded. Where the operator chose a limit on items,
        videos have as many tokens; images cannot be made larger than stock's.
        """
        inputs = super().get_dummy_inputs(*args, **kwargs)
        settings = replace(at_most(self._script_config), cache_gb=0, tower_keep=1.0)
        inputs, settings = self.item_limit.dummies(inputs, settings)
        request = ScriptRequest(
            queries="What is shown in the image?", config=settings, counted=False
        )
        kwargs = {**inputs.hf_processor_mm_kwargs, REQUEST_KEY: request}
        return replace(inputs, hf_processor_mm_kwargs=kwargs)

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        if not isinstance(request := kwargs.pop(REQUEST_KEY, None), ScriptRequest):
            raise RuntimeError("the prompt did not pass through the renderer of the script plugin")
        modalities = [m for m in self.family.modalities if m in inputs.mm_data_items]
        items = {m: inputs.mm_data_items[m] for m in modalities}
        limits = {m: self.item_limit.of(request, m) for m in items}
        for modality, own in items.items():
            self._check_sizes(own, kwargs, limits[modality])
        plans = {m: self._plans(items[m], request, kwargs) for m in items}
        if request.watcher is not None:
            plans = {m: list(map(request.watcher.mark, plans[m])) for m in plans}
        with timing_ctx.record("get_mm_hashes"):
            hashes = dict(super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=kwargs)))
        caching = request.settings.cache_gb != 0
        planned = {m: planned_items(plans[m], hashes[m], items[m], caching=caching) for m in items}
        hashes |= {m: [item.identifier for item in planned[m]] for m in items}
        carried = Carried(planned, hashes, limits, not request.counted)
        carrying = {**kwargs, CARRIED_KEY: carried}
        processed = super().apply(replace(inputs, hf_processor_mm_kwargs=carrying), timing_ctx)
        for modality in items:
            sent = processed["mm_kwargs"].get(modality, ())
            self._tell_totals(modality, sent, planned[modality])
        if request.counted:
            self._check_prompt(processed, plans)
            for modality, own in items.items():
                spans = processed["mm_placeholders"][modality]
                layout_of = partial(self._image_layout, own, kwargs=kwargs)
                source = request.query_source
                self.counter.count(own, planned[modality], spans, layout_of, source)
        if request.watcher is not None:
            for modality, own in items.items():
                layouts = [
                    self._image_layout(own, index, kwargs) or carried.layouts.get(item.identifier)
                    for index, item in enumerate(planned[modality])
                ]
                spans = processed["mm_placeholders"][modality]
                self._show(request, own, plans[modality], layouts, spans)
        return processed

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> Any:
        return take_carried(inputs.hf_processor_mm_kwargs)[0].identifiers

    def _get_cache_missing_processor_kwargs(
        self, inputs: ProcessorInputs, mm_is_cached: Mapping[str, list[bool]]
    ) -> Mapping[str, object]:
        carried, stock_kwargs = take_carried(inputs.hf_processor_mm_kwargs)
        stock_inputs = replace(inputs, hf_processor_mm_kwargs=stock_kwargs)
        missing = {
            m: [item for item, hit in zip(items, mm_is_cached[m], strict=True) if not hit]
            for m, items in carried.items.items()
        }
        kwargs = super()._get_cache_missing_processor_kwargs(stock_inputs, mm_is_cached)
        return {**kwargs, CARRIED_KEY: replace(carried, items=missing)}

    def _apply_hf_processor_main(
        self, mm_items: MultiModalDataItems, hf_kwargs: Mapping[str, object]
    ) -> Any:
        carried, stock_kwargs = take_carried(hf_kwargs)
        pruned = [m for m, items in carried.items.items() if any(item.plan for item in items)]
        if not pruned and not carried.dummies:
            return super()._apply_hf_processor_main(mm_items, stock_kwargs)
        batch = BatchFeature()
        for modality, items in mm_items.items():
            if carried.dummies and modality in carried.items:
                batch.update(mark_dummies(len(items), modality))
            if modality in pruned:
                batch.update(self._process(items, carried, stock_kwargs))
            else:
                others = MultiModalDataItems({modality: items})
                batch.update(super()._apply_hf_processor_main(others, stock_kwargs))
        return batch

    def _get_mm_fields_config(
        self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        _, stock_kwargs = take_carried(hf_processor_mm_kwargs)
        stock = super()._get_mm_fields_config(hf_inputs, stock_kwargs)
        return {**stock, **field_configs(self.family.modalities)}

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: Any,
    ) -> Sequence[Any]:
        _, stock_kwargs = take_carried(hf_processor_mm_kwargs)

        def sized(update: Any) -> Any:
            modality = update.modality
            if modality not in self.family.modalities:
                return update

            def replacement(index: int) -> Any:
                content = update.content
                stock = content(index) if callable(content) else content
                layout = self._image_layout(mm_items[modality], index, stock_kwargs)
                check_layout(stock, layout)
                fields = out_mm_kwargs[modality][index]
                count = packed_count(fields, modality)
                if count is None:
                    return stock
                check_room(stock, packed_total(fields, modality), f"{modality} {index}")
                return self._shortened(stock, count)

            return replace(update, replacement=replacement)

        stock_updates = super()._get_prompt_updates(mm_items, stock_kwargs, out_mm_kwargs)
        return list(map(sized, stock_updates))

    # What these methods do of their own, in the same order.

    def _check_sizes(self, items: Items, kwargs: Mapping[str, object], limit: float) -> None:
        """Refuse an item that is larger than the limit, where that is known before processing."""
        for index in range(len(items)):
            tokens, item = None, items.get(index)
            if isinstance(items, VideoProcessorItems) and item is not None:
                tokens = self.item_limit.video_tokens(item, kwargs)
            elif (layout := self._image_layout(items, index, kwargs)) is not None:
                tokens = layout.num_placeholders
            if tokens is not None:
                check_item(f"{items.modality} {index}", tokens, limit)

    def _image_layout(
        self, items: Items, index: int, kwargs: Mapping[str, object]
    ) -> Layout | None:
        """Layout of an image by its size; None where that is not known, and of a video."""
        if not isinstance(items, ImageProcessorItems) or items.get(index) is None:
            return None
        size = items.get_image_size(index)
        return self.family.image_layout(self.info, size.height, size.width, kwargs)

    def _plans(
        self, items: Items, request: ScriptRequest, kwargs: Mapping[str, object]
    ) -> list[Plan | None]:
        """Plans of a request's items of one modality; None of an item that is left whole."""
        modality = items.modality
        if isinstance(items, EmbeddingItems | DictEmbeddingItems):
            if request.asked and request.settings.keep_ratio != 1:
                raise refusal(
                    "image_embeds",
                    f"{modality}_embeds cannot be pruned: where their rows come from is not "
                    f"known; send the {modality}, or leave `script` out of the request",
                )
            return [None] * len(items)
        queries = request.queries_of(modality, len(items))
        if (places := request.num_placeholders.get(modality, len(queries))) != len(items):
            raise VLLMValidationError(
                f"the prompt has {places} {modality} placeholders for {len(items)} {modality}s; "
                "give one for each, which vLLM repeats by itself"
            )
        tokenizer = self.info.get_tokenizer()
        vocab_size = self.info.get_hf_config().get_text_config().vocab_size
        plans = []
        for index, questions in enumerate(queries):
            query = query_windows(request, questions, tokenizer, vocab_size)
            layout = self._image_layout(items, index, kwargs)
            plans.append(plan_item(request, query, layout, f"{modality} {index}"))
        return plans

    def _process(
        self,
        items: Items,
        carried: Carried,
        stock_kwargs: Mapping[str, object],
    ) -> BatchFeature:
        """Process items one by one, with their plans.

        LLaVA-NeXT fills up the tiles of images that are processed together, which would make what
        is cached of one depend on the others.
        """
        sent = []
        for index, item in enumerate(carried.items[items.modality]):
            kwargs = self._kwargs_of(items, index, stock_kwargs)
            pixels = self._pixels(items.modality, items[index], item.cache_key, kwargs)
            layout = self._image_layout(items, index, stock_kwargs)
            packed = self._packed(item, layout, carried, pixels)
            sent.append({**pixels, **pack(packed, items.modality)})
        configs_of = super()._get_mm_fields_config
        return put_together(sent, lambda batch: configs_of(batch, stock_kwargs))

    def _kwargs_of(self, items: Items, index: int, stock_kwargs: Mapping[str, object]) -> Any:
        """Arguments for one item: there may be lists of them, such as a speed for each video.

        vLLM selects them as if all others were cached.
        """
        inputs = ProcessorInputs([], MultiModalDataItems(), hf_processor_mm_kwargs=stock_kwargs)
        others = {items.modality: [other != index for other in range(len(items))]}
        return super()._get_cache_missing_processor_kwargs(inputs, others)

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

    def _packed(
        self, item: PlannedItem, layout: Layout | None, carried: Carried, pixels: PixelFields
    ) -> PackedItem | None:
        """What the worker is to do with one item; None to leave it whole.

        Args:
            layout: None of a video, whose layout is known from its pixels alone.
            carried: of the request; it is told the layout.
        """
        if item.plan is None:
            return None
        key = item.cache_key
        modality = "video" if layout is None else "image"
        by_pixels = self.family.item_layout(self.info.get_hf_config(), modality, pixels)
        if layout is not None:
            check_pixels(layout, by_pixels)
        else:
            layout = by_pixels
            check_item("a video", layout.num_placeholders, carried.limits["video"])
            # Frames may be taken by what the file says of its speed, which is not in its shape.
            key = key and image_key(key.hex(), layout.num_frames, layout.num_placeholders)
        quota = self.family.quota(self.info.get_hf_config(), layout, item.plan)
        if quota is not None and item.plan.tower is not None:
            key = key and image_key(key.hex(), *item.plan.tower)
        self.counter.remember(item, layout)
        carried.layouts[item.identifier] = layout
        kept, total = item.plan.num_kept(*layout.counts), layout.num_placeholders
        return None if kept is None else PackedItem(item.plan, kept, total, key)

    def _tell_totals(
        self, modality: str, sent: Sequence[Any], planned: Sequence[PlannedItem]
    ) -> None:
        """Tell the scheduler of pruned items that vLLM sends through shared memory.

        It gets their address alone; of others it reads what stands beside their pixels.

        Args:
            sent: what vLLM sends of each item; None of one that the engine process has.
        """
        for fields, item in zip(sent, planned, strict=True):
            if item.plan is not None and fields is not None and "address" in fields:
                fields.update(total_alone(self.counter.known(item), modality))

    def _shortened(self, stock: Any, count: int) -> Any:
        """Return a prompt replacement with `count` placeholders; families may lay them out anew."""
        return shortened(stock, count)

    def _check_prompt(self, processed: Any, plans: Mapping[str, Sequence[Plan | None]]) -> None:
        """Refuse a prompt whose items do not stand where the model can prune them."""

    def _show(
        self,
        request: ScriptRequest,
        items: Items,
        plans: Sequence[Plan | None],
        layouts: Sequence[Layout | None],
        spans: Sequence[PlaceholderRange],
    ) -> None:
        """Show the request's watcher what is done to each item of one modality."""
        assert request.watcher is not None, "called where somebody watches"
        queries = request.queries_of(items.modality, len(plans))
        shown = zip(plans, layouts, queries, spans, strict=True)
        for index, (plan, layout, questions, span) in enumerate(shown):
            if plan and layout and plan.num_kept(*layout.counts) is None:
                plan = None  # a video that has no more tokens than the budget
            reads = plan is not None and len(plan.query) > 0
            read, source = (questions, request.query_source) if reads else ((), "none")
            content, num_tokens = items.get(index), span.get_num_embeds()
            request.watcher.see(items.modality, content, layout, plan, read, source, num_tokens)
