"""The multimodal processor's part: plans in, placeholder counts and identifiers out.

`PruningProcessor` goes before a stock processor in the bases of a subclass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.multimodal.parse import DictEmbeddingItems, EmbeddingItems, MultiModalDataItems
from vllm.multimodal.processing import ProcessorInputs

from ..config import ScriptConfig
from ..explain.explained import ExplainedImage, with_explain_id
from ..layout import Layout
from ..plan import Plan
from ..wire import COUNT_FIELD, field_name
from .items import HASHES_KEY, ORDERS_KEY, make_orders, take_orders
from .placeholders import placeholder_mask, shortened
from .planner import at_most, plan_item, query_windows
from .preprocessing import Preprocessor
from .refusal import refusal
from .request import REQUEST_KEY, ScriptRequest


class PruningProcessor(Preprocessor):
    """Mixin that gives each item its plan and sizes its placeholders to it."""

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
        config = ScriptConfig.of(self.info.get_hf_config())
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

    def _get_mm_hashes(self, inputs: ProcessorInputs) -> Any:
        return inputs.hf_processor_mm_kwargs[HASHES_KEY]

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
