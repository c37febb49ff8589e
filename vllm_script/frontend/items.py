"""One image or video on its way through the processor: what is planned for it, and its fields.

vLLM's processor is one object that serves concurrent requests in threads, so nothing of a request
may be kept on it. What is planned for a request's items travels between the processor's steps among
its keyword arguments, as `Carried`, and is taken out again before stock vLLM reads these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.inputs import (
    MultiModalFieldConfig,
    MultiModalFlatField,
    MultiModalKwargsItems,
    MultiModalSharedField,
)

from ..layout import Layout
from ..plan import Plan, identifier, image_key
from ..vllm_types import Items

CARRIED_KEY = "script_items"
"""Key of the processor's keyword arguments under which `Carried` travels from step to step."""


@dataclass(frozen=True)
class PlannedItem:
    """What is to be done with one image or video."""

    plan: Plan | None
    """How it is pruned; None to leave it whole."""

    identifier: str
    """Name of the item in vLLM's caches."""

    cache_key: bytes
    """Key of the item in our caches, which hold it before pruning; empty where it is kept out."""


@dataclass(frozen=True)
class Carried:
    """What one request's `apply` hands to the steps of the processor that vLLM calls after it."""

    items: Mapping[str, Sequence[PlannedItem]] = field(default_factory=dict)
    """What is planned for each item, by modality, of the modalities that are pruned."""

    identifiers: Mapping[str, list[str]] = field(default_factory=dict)
    """Identifiers of all items, by modality."""

    limits: Mapping[str, float] = field(default_factory=dict)
    """The most visual tokens that an item may have before pruning, by modality."""

    dummies: bool = False
    """Whether the items are those that vLLM profiles memory with."""

    layouts: dict[str, Layout] = field(default_factory=dict)
    """Layouts of the items that were processed, by identifier: of a video it is not known before.
    The steps fill it in."""


def take_carried(kwargs: Mapping[str, Any]) -> tuple[Carried, dict[str, Any]]:
    """Return what `apply` put into the processor's keyword arguments, and these without it."""
    stock_kwargs = dict(kwargs)
    return stock_kwargs.pop(CARRIED_KEY, Carried()), stock_kwargs


def planned_items(
    plans: Sequence[Plan | None], stock_hashes: Sequence[str], items: Items, *, caching: bool
) -> list[PlannedItem]:
    """Name each item of one modality by its plan.

    Args:
        plans: of each item, None to leave it whole.
        stock_hashes: the identifiers that stock vLLM would use.
        caching: whether our caches are on; an item that is left whole, or came as a reference to
            one sent before, is kept out of them in any case.
    """
    planned = []
    for index, (plan, stock_hash) in enumerate(zip(plans, stock_hashes, strict=True)):
        size = size_of(items, index) if caching and plan is not None else None
        key = image_key(stock_hash, *size) if size else b""
        planned.append(PlannedItem(plan, identifier(stock_hash, plan), key))
    return planned


def size_of(items: Any, index: int) -> tuple[int, ...] | None:
    """Return an image's height and width or a video's shape; None of a reference by uuid alone."""
    item = items.get(index)
    if item is None:
        return None
    if items.modality == "image":
        size = items.get_image_size(index)
        return size.height, size.width
    frames = item[0] if isinstance(item, tuple) else item  # vLLM pairs frames with their metadata
    return len(frames), *np.shape(frames[0])


Configs = Mapping[str, MultiModalFieldConfig]
"""How vLLM batches the fields of items, by field name."""


def take_apart(processed: BatchFeature, configs: Configs, modality: str) -> dict[str, Any]:
    """Return the fields of the one item that was processed, by name, as vLLM sends them."""
    (item,) = MultiModalKwargsItems.from_hf_inputs(processed, configs)[modality]
    return {name: element.data for name, element in item.items()}


def put_together(
    items: Sequence[Mapping[str, Any]], configs_of: Callable[[BatchFeature], Configs]
) -> BatchFeature:
    """Return what the Hugging Face processor would have made of all items at once.

    Args:
        items: the fields of each item, as `take_apart` returns them.
        configs_of: returns vLLM's configuration of a batch's fields; it may read the small ones.
    """
    columns = {name: [item[name] for item in items] for name in items[0]}
    batch = BatchFeature({name: _stacked(values) for name, values in columns.items()})
    for name, config in configs_of(batch).items():
        if name in columns and isinstance(config.field, MultiModalFlatField):
            batch[name] = torch.cat(columns[name], dim=config.field.dim)
        elif name in columns and isinstance(config.field, MultiModalSharedField):
            batch[name] = columns[name][0]
    return batch


def _stacked(values: list[Any]) -> Any:
    """One tensor of values that are small tensors of one shape; other values as they are."""
    shapes = {value.shape if isinstance(value, torch.Tensor) else None for value in values}
    (shape,) = shapes if len(shapes) == 1 else (None,)
    return torch.stack(values) if shape is not None and len(shape) <= 1 else values
