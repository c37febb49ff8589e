"""The model's part: encode item by item, select in all of them, return exactly the planned rows.

One item is one micro-batch of the encoder: its batch has a shape of its own whatever else is
running, so the same item and plan give the same rows, also when it is encoded again after an
eviction. It also bounds the encoder's memory by the largest item. Selection takes all items of a
step at once, for its kernels keep the same rows of an item whatever is beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from vllm.distributed import get_pp_group, get_tp_group, tensor_model_parallel_all_reduce

from ..agreement import peer_name
from ..config import ScriptConfig
from ..connectors import has_nixl
from ..family import Family
from ..kernels import gather_rows
from ..patches.encoder_cache import on_encoder_cache_reset
from ..patches.nixl_handshake import compare_between_peers
from ..patches.probing import Probes
from ..plan import Plan
from ..relevance.lm_attention import LmAttention
from ..wire import PackedItem, take_mark, unpack
from .batch import one_of, portions
from .clip_check import ClipCheck, load_clip
from .dummies import prune_one, thin_one, unknown_model
from .encoded_image import EncodedImage
from .encoder_work import step_tokens
from .feature_cache import FeatureCache, default_capacity_gb
from .first_layer import first_layer
from .input_table import read_input_table
from .ranks import check_ranks_agree
from .selector import Selection, Selector
from .timers import Timers
from .tower import Thinning, num_early_blocks_of
from .warm_up import compile_kernels

logger = logging.getLogger("vllm.script")


class PrunedModel:
    """Prunes what `embed_multimodal` returns.

    It goes before a stock model in the bases of a subclass, which names its `family`.
    """

    family: Family
    """How the model lays out items."""
    probes: ClassVar[Probes] = {}
    """What of vLLM the family overrides and calls, beyond what all families do: names of the stock
    model class or paths "module:name", each with what is expected there (patches/probing.py). A
    processing info or processor of the family may have such a table too."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        hf_config = vllm_config.model_config.hf_config
        config = ScriptConfig.of(vllm_config.model_config)
        self._script_config = config
        self._hf_config = hf_config
        device = vllm_config.device_config.device
        self._step_tokens = step_tokens(vllm_config)
        self._timers = Timers(device)
        self._tower_dropped = 0
        self._encodes = get_pp_group().is_first_rank  # of a pipeline only the first stage does
        cache_gb = config.cache_gb if self._encodes else 0
        if cache_gb is None:
            cache_gb = default_capacity_gb(device, get_tp_group())
        self.feature_cache = FeatureCache(
            cache_gb,
            self.family.state_width(hf_config),
            self.family.feature_width(hf_config),
            vllm_config.model_config.dtype,
            device,
        )
        logger.info("Script keeps features of images in %.2f GiB of this worker", cache_gb)
        on_encoder_cache_reset(vllm_config, "forget_images")
        if has_nixl(vllm_config):
            compare_between_peers(peer_name)
        self.script_clip = load_clip(vllm_config, config) if self._encodes else None
        self._check_clip = ClipCheck(self.script_clip, config.clip_model, hf_config)
        hidden_size = hf_config.get_text_config().hidden_size
        embed: Callable[[torch.Tensor], torch.Tensor] = partial(input_embeddings, self)
        if vllm_config.is_mm_encoder_only:
            embed = read_input_table(vllm_config, device)
        lm_attention = None
        if self._encodes and config.relevance == "lm-attention":
            layer = first_layer(self.get_language_model())  # type: ignore[attr-defined]
            lm_attention = LmAttention(layer, tensor_model_parallel_all_reduce)
        self.selector = Selector(hidden_size, embed, self.script_clip, config.kernels, lm_attention)
        if self._encodes:
            compile_kernels(
                hidden_size,
                self.family.feature_width(hf_config),
                self.script_clip,
                vllm_config.model_config.dtype,
                device,
                config.kernels,
                self.family.tower_width(hf_config) if config.tower_keep < 1 else None,
            )
        self.selection_watcher: Callable[[str, Selection], None] | None = None
        """Called with the `explain_id` and the selection of every explained item; None where nobody
        looks."""

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        self.forget_images()
        loaded: set[str] = super().load_weights(weights)  # type: ignore[misc]
        return loaded

    def forget_images(self) -> None:
        """Empty the feature cache, because the weights that encoded its images change.

        What CLIP remembers of queries stays: its weights never change.
        """
        self.feature_cache.clear()

    def take_observations(self) -> dict[str, Any]:
        """Return what was observed since the last call.

        Returns:
            seconds: of every "encoder" run and every "selection", lists of floats by name.
            cache_hits, cache_misses: items looked up in the feature cache.
            cache_bytes: what of it is in use now.
            tower_dropped: visual tokens that thinned vision towers did not compute to their end.
        """
        cache = self.feature_cache
        observed = {
            "seconds": self._timers.take(),
            "cache_hits": cache.hits,
            "cache_misses": cache.misses,
            "cache_bytes": cache.num_bytes,
            "tower_dropped": self._tower_dropped,
        }
        cache.hits = cache.misses = self._tower_dropped = 0
        return observed

    def encode(
        self, modality: str, fields: dict[str, Any], thinning: Thinning | None = None
    ) -> EncodedImage:
        """Encode one item before selection.

        Families with a CLIP tower override it, and those whose tower can be thinned.

        Args:
            fields: what the Hugging Face processor made of the item, as vLLM batches a single one.
            thinning: how its vision tower is thinned; None for the whole tower.
        """
        assert thinning is None, "a family whose tower can be thinned does it"
        (rows,) = PrunedModel.embed_whole(self, modality, fields)
        layout = self.family.item_layout(self._hf_config, modality, fields)
        return EncodedImage.without_states(rows, layout)

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        """Yield the fields of a batch item by item; families with shared tensors override it."""
        for index in range(num_items):
            yield {name: one_of(value, index) for name, value in fields.items()}

    def embed_whole(self, modality: str, fields: dict[str, Any]) -> Sequence[torch.Tensor]:
        """Return the rows of a batch of items as stock vLLM has them, a tensor for each item."""
        rows: Sequence[torch.Tensor] = super().embed_multimodal(**fields)  # type: ignore[misc]
        return rows

    def embed_kept(
        self, modality: str, fields: dict[str, Any], image: EncodedImage, kept: torch.Tensor
    ) -> torch.Tensor:
        """Return the rows of one item that is pruned, a copy: a view would pin all features."""
        return gather_rows(image.features, image.rows_of(kept), self._script_config.kernels)

    def get_encoder_cudagraph_config(self) -> Any:
        """Return stock's configuration without modalities, so that no CUDA graph is captured.

        A captured encoder would return all rows, without what stands beside them.
        """
        get_config: Callable[[], Any] = super().get_encoder_cudagraph_config  # type: ignore[misc]
        return replace(get_config(), modalities=[])

    def embed_multimodal(self, **kwargs: Any) -> Any:
        modality = "video" if any("video" in name for name in kwargs) else "image"  # one a call
        packed, are_dummies = unpack(kwargs, modality), take_mark(kwargs, modality)
        if not self._encodes:
            return self._stand_ins(modality, kwargs, packed)
        self._check_clip(self, are_dummies)
        config = self._script_config
        if are_dummies:
            thin_one(self, config, modality, kwargs)
        if packed is None:
            expected = None
            if are_dummies:
                expected = prune_one(self, config, modality, kwargs, self._step_tokens)
            rows = self.embed_whole(modality, kwargs)
            if expected is not None and len(rows[0]) != expected:
                raise unknown_model(len(rows[0]), expected)
            return rows
        embeddings: list[torch.Tensor] = []
        items = zip(self.split(kwargs, len(packed)), packed, strict=True)
        for portion in portions(items, self._step_tokens):
            planned = [(fields, item) for fields, item in portion if item is not None]
            kept = iter(self._pruned(modality, planned, are_dummies))
            for fields, item in portion:
                own = self.embed_whole(modality, fields) if item is None else [next(kept)]
                embeddings.extend(own)
        return embeddings

    def _stand_ins(
        self, modality: str, fields: dict[str, Any], packed: Sequence[PackedItem | None] | None
    ) -> list[torch.Tensor]:
        """Rows for the memory profile of a pipeline's later stage, which encodes nothing else.

        They are as many as the first stage makes, and say nothing.
        """
        rows = list(self.embed_whole(modality, fields))
        if packed is None:
            return rows
        counts = [
            len(own) if item is None else item.count for own, item in zip(rows, packed, strict=True)
        ]
        return [own[:count] for own, count in zip(rows, counts, strict=True)]

    def _pruned(
        self,
        modality: str,
        planned: Sequence[tuple[dict[str, Any], PackedItem]],
        are_dummies: bool,
    ) -> list[torch.Tensor]:
        """The rows that stay of each item of a portion that is pruned."""
        if not planned:
            return []
        images = [self._encoded(modality, fields, item) for fields, item in planned]
        with self._timers.measure("selection", len(planned)):
            selections = self.selector.select(images, [item.plan for _, item in planned])
            rows = []
            for (fields, item), image, selection in zip(planned, images, selections, strict=True):
                selection.check(item.count)
                self._show(selection, item.plan)
                rows.append(self.embed_kept(modality, fields, image, selection.kept))
        if are_dummies:
            check_ranks_agree(torch.cat([selection.kept for selection in selections]))
        return rows

    def _encoded(self, modality: str, fields: dict[str, Any], item: PackedItem) -> EncodedImage:
        """The item as `encode` encodes it, from the cache where it is known there."""
        image = self.feature_cache.get(item.key) if item.key else None
        if image is None:
            thinning = self.thinning_of(modality, fields, item.plan)
            with self._timers.measure("encoder"):
                image = self.encode(modality, fields, thinning)
            if thinning is not None:
                self._tower_dropped += image.layout.num_patches - thinning.quota.num_left
            if item.key:
                self.feature_cache.put(item.key, image)
        return image

    def thinning_of(self, modality: str, fields: dict[str, Any], plan: Plan) -> Thinning | None:
        """Return how the vision tower is thinned for an item under a plan; None: it is whole."""
        if plan.tower is None:
            return None
        layout = self.family.item_layout(self._hf_config, modality, fields)
        quota = self.family.quota(self._hf_config, layout, plan)
        if quota is None:
            return None
        depth = self.family.tower_depth(self._hf_config)
        num_early = num_early_blocks_of(plan.tower.layer, depth)
        return Thinning(layout, quota, num_early, self._script_config.kernels)

    def _show(self, selection: Selection, plan: Plan) -> None:
        """Show the watcher the selection of an item that is explained."""
        if plan.explain_id is not None and self.selection_watcher is not None:
            self.selection_watcher(plan.explain_id, selection)


def input_embeddings(model: Any, token_ids: torch.Tensor) -> torch.Tensor:
    """Rows [L, D] of the language model's input embedding for token_ids [L].

    Reads below a LoRA wrapper: relevance belongs to the base model, and the wrapper's batch
    mapping does not describe these tokens.
    """
    language_model = model.get_language_model()
    embedding = getattr(getattr(language_model, "model", None), "embed_tokens", None)
    if embedding is None:
        embed = language_model.embed_input_ids
    else:
        embed = getattr(embedding, "base_layer", embedding)
    rows: torch.Tensor = embed(token_ids)
    return rows
