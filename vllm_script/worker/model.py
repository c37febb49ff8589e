"""The model's part: encode item by item, select the planned rows, return exactly those.

`PrunedModel` goes before a stock model in the bases of a subclass. One image is one micro-batch:
its encoder batch has a shape of its own whatever else is running, so the same image and plan give
the same rows, also when it is encoded again after an eviction. It also bounds the encoder's
memory, for the scheduler's budget counts pruned rows and would let nine times as many tiles in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from vllm.distributed import get_pp_group

from ..config import ScriptConfig
from ..explain.shelf import Selection, Shelf
from ..kernels import gather_rows, query_relevance
from ..layout import Layout
from ..patches.encoder_cache import on_encoder_cache_reset
from ..patches.vllm import clip_weights, input_embeddings
from ..plan import Plan, make_plan
from ..pruning import run_mode
from ..pruning.frames import frame_floors
from ..relevance.clip import ClipRelevance
from ..wire import COUNT_FIELD, KEY_FIELD, PLAN_FIELD, field_name
from .encoded_image import EncodedImage
from .feature_cache import FeatureCache
from .timers import Spans

_CLIP_PREFIX = "script_clip."


class PrunedModel:
    """Mixin that prunes what `embed_multimodal` returns."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        config = ScriptConfig.from_dict(vllm_config.model_config.hf_config.vllm_script)
        self._script_config = config
        self._tested: set[str] = set()
        self._hidden_size = vllm_config.model_config.hf_config.get_text_config().hidden_size
        self.feature_cache = self._feature_cache(config.cache_gb, vllm_config)
        self.shelf = Shelf()
        self._spans = Spans(vllm_config.device_config.device)
        on_encoder_cache_reset(vllm_config, "forget_images")
        self.script_clip: Any = None
        if config.clip_model is not None:
            from transformers import AutoConfig

            self.script_clip = ClipRelevance(AutoConfig.from_pretrained(config.clip_model))
            self.secondary_weights = [clip_weights(config.clip_model, _CLIP_PREFIX)]

    def _feature_cache(self, capacity_gb: float, vllm_config: Any) -> FeatureCache:
        """A cache for this worker's items; only the first stage of a pipeline encodes any."""
        hf_config = vllm_config.model_config.hf_config
        return FeatureCache(
            capacity_gb if get_pp_group().is_first_rank else 0,
            self.state_width(hf_config),
            self.feature_width(hf_config),
            vllm_config.model_config.dtype,
            vllm_config.device_config.device,
        )

    @staticmethod
    def state_width(hf_config: Any) -> int:
        """H of its `EncodedImage`s. Families with a CLIP tower override it."""
        return 0

    @staticmethod
    def feature_width(hf_config: Any) -> int:
        """D of its `EncodedImage`s."""
        return hf_config.get_text_config().hidden_size

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        self.forget_images()
        loaded_here = set()

        def stock_weights() -> Iterator[tuple[str, torch.Tensor]]:
            for name, weight in weights:
                if not name.startswith(_CLIP_PREFIX):
                    yield name, weight
                elif found := self.script_clip.load_weight(name.removeprefix(_CLIP_PREFIX), weight):
                    loaded_here.add(_CLIP_PREFIX + found)

        loaded = super().load_weights(stock_weights())  # type: ignore[misc]
        return loaded | loaded_here

    def forget_images(self) -> None:
        """Empty the cache: what encoded its images changes."""
        self.feature_cache.clear()

    def take_observations(self) -> dict[str, Any]:
        """What was observed since the last call.

        Returns:
            seconds: of every "encoder" run and every "selection", lists of floats by name.
            cache_hits, cache_misses: images looked up in the feature cache.
            cache_bytes: what of it is in use now.
        """
        cache = self.feature_cache
        observed = {
            "seconds": self._spans.take(),
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_bytes": cache.num_bytes,
        }
        cache.hits = cache.misses = 0
        return observed

    @abstractmethod
    def item_layout(self, modality: str, fields: Mapping[str, Any]) -> Layout:
        """Layout of an item. Families implement it, or `encode`.

        Args:
            fields: the item's processor output, each value with a leading dimension of 1.
        """

    def encode(self, modality: str, fields: dict[str, Any]) -> EncodedImage:
        """Encode one item; as here, where every row of vLLM's is a row of features."""
        (rows,) = PrunedModel.embed_whole(self, modality, fields)
        return EncodedImage.without_states(rows, self.item_layout(modality, fields))

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        """Fields of a batch, item by item. Families whose items share tensors override it."""
        for index in range(num_items):
            yield {name: _one(value, index) for name, value in fields.items()}

    def embed_whole(self, modality: str, fields: dict[str, Any]) -> Sequence[torch.Tensor]:
        """Rows of a batch of items as vLLM has them, a tensor for each."""
        return super().embed_multimodal(**fields)  # type: ignore[misc]

    def embed_kept(
        self, modality: str, fields: dict[str, Any], image: EncodedImage, kept: torch.Tensor
    ) -> torch.Tensor:
        """Rows of one item that is pruned. A copy: a view would pin all features."""
        return gather_rows(image.features, kept)

    def get_encoder_cudagraph_config(self) -> Any:
        """None: a captured encoder would return all rows, and without what we put beside them."""
        get_config: Callable[[], Any] = super().get_encoder_cudagraph_config  # type: ignore[misc]
        return replace(get_config(), modalities=[])

    def embed_multimodal(self, **kwargs: Any) -> Any:
        modality = "video" if any("video" in name for name in kwargs) else "image"  # one a call
        own = (PLAN_FIELD, COUNT_FIELD, KEY_FIELD)
        plans, counts, keys = (kwargs.pop(field_name(name, modality), None) for name in own)
        if plans is None:
            rows = self.embed_whole(modality, kwargs)
            if modality not in self._tested and any(n.startswith("pixel_values") for n in kwargs):
                self._tested.add(modality)
                self._self_test(modality, next(self.split(kwargs, len(rows))), len(rows[0]))
            return rows
        embeddings: list[torch.Tensor] = []
        items = self.split(kwargs, len(plans))
        for fields, plan, count, key in zip(items, plans, counts, keys, strict=True):
            if int(count) == 0:
                embeddings.extend(self.embed_whole(modality, fields))
                continue
            image = self._encoded(modality, fields, bytes(key.tolist()))
            with self._spans.measure("selection"):
                kept = self._kept(image, Plan.decode(bytes(plan.tolist())), int(count))
                embeddings.append(self.embed_kept(modality, fields, image, kept))
        return embeddings

    def _encoded(self, modality: str, fields: dict[str, Any], key: bytes) -> EncodedImage:
        """The item as `encode` encodes it, from the cache where it is known there."""
        image = self.feature_cache.get(key) if key else None
        if image is None:
            with self._spans.measure("encoder"):
                image = self.encode(modality, fields)
            if key:
                self.feature_cache.put(key, image)
        return image

    def _kept(self, image: EncodedImage, plan: Plan, count: int) -> torch.Tensor:
        selection = self.select(image, plan)
        if len(selection.kept) != count:
            raise RuntimeError(
                f"pruning selected {len(selection.kept)} rows for an image with {count} "
                "placeholders"
            )
        if plan.explain_id is not None:
            self.shelf.put(plan.explain_id, selection)
        return selection.kept

    def _self_test(self, modality: str, fields: dict[str, Any], num_rows: int) -> None:
        """Prune the first item left whole, which is vLLM's dummy where it profiles memory.

        So the memory that selection takes is part of the profile, and a layout that does not fit
        the model ends the start-up.
        """
        image = self.encode(modality, fields)
        self.feature_cache.check(image)
        if image.layout.num_placeholders != num_rows:
            raise RuntimeError(
                f"the model returns {num_rows} rows for an image, its layout has "
                f"{image.layout.num_placeholders}: this plugin does not know this model"
            )
        plan = make_plan(self._script_config, query=((0, 1),))
        count = plan.num_kept(*image.layout.counts)
        if count is not None and len(kept := self.select(image, plan).kept) != count:
            raise RuntimeError(f"pruning selected {len(kept)} of {num_rows} rows, not {count}")

    def select(self, image: EncodedImage, plan: Plan) -> Selection:
        """Choose the rows of `image.features` that stay."""
        layout = image.layout
        budget = plan.num_kept(*layout.counts)
        assert budget is not None, "an image with a plan is pruned"
        candidates = to_device(layout.candidates, image.features.device)
        visual_tokens = image.features.index_select(0, candidates)[:, : self._hidden_size]  # [P, D]
        states = image.states.index_select(0, candidates)  # [P, H]
        relevance = self._relevance(visual_tokens, states, plan)
        floors = None
        if layout.num_frames > 1:
            floors = frame_floors(budget, layout.num_frames, layout.even)
        kept = run_mode(visual_tokens, budget, relevance, plan.mode, plan.params, floors)
        return Selection(candidates[kept], relevance)

    def _relevance(
        self, visual_tokens: torch.Tensor, states: torch.Tensor, plan: Plan
    ) -> torch.Tensor | None:
        if plan.relevance == "none":
            return None
        if plan.relevance == "clip":
            return self.script_clip(states, plan.query)
        (query,) = plan.query
        token_ids = to_device(torch.tensor(query), visual_tokens.device)
        return query_relevance(visual_tokens, input_embeddings(self, token_ids))


def split_flat(fields: dict[str, Any], sizes: torch.Tensor) -> Iterator[dict[str, Any]]:
    """`PrunedModel.split` where the pixels of all items are in one tensor.

    Args:
        sizes: [items] rows of pixels of each item.
    """
    ends = sizes.cumsum(0).tolist()
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        item = dict(fields)
        for name, value in fields.items():
            if name.startswith("pixel"):
                item[name] = value[start:end]
            elif not isinstance(value, torch.Tensor) or value.dim() > 0:  # else one for all items
                item[name] = value[index : index + 1]
        yield item


def _one(values: Any, index: int) -> Any:
    """One item of a batch, batched as vLLM batches a single one."""
    value = values[index]
    return value[None] if isinstance(value, torch.Tensor) else [value]


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy x; the host does not wait for the device."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)
