"""The fields of an item on its way to the worker: taken apart item by item, and put together again.

vLLM stores some fields of all items in one tensor and others in a list, which its configuration of
each field tells. What is taken apart and put together comes out as if processed together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.inputs import (
    MultiModalFieldConfig,
    MultiModalFlatField,
    MultiModalKwargsItems,
    MultiModalSharedField,
)

PLAN_FIELD = "script_plan"
"""Field of an item: its plan's bytes, uint8 [length]; empty to leave it whole."""

COUNT_FIELD = "script_count"
"""Field of an item: rows its placeholders expect, int64 []; 0 where the plan is empty."""

KEY_FIELD = "script_key"
"""Field of an item: its key in the worker's cache, uint8 [16]; empty to keep it out."""

Configs = Mapping[str, MultiModalFieldConfig]


def field_name(field: str, modality: str) -> str:
    """Name of one of our fields for that modality; vLLM gives every name to one modality."""
    return field if modality == "image" else f"{field}_{modality}"


def own_fields(plan: bytes, count: int, key: bytes, modality: str) -> dict[str, torch.Tensor]:
    """Our three fields of an item."""
    values = {PLAN_FIELD: _bytes(plan), COUNT_FIELD: torch.tensor(count), KEY_FIELD: _bytes(key)}
    return {field_name(field, modality): value for field, value in values.items()}


def own_configs(modalities: Sequence[str]) -> dict[str, MultiModalFieldConfig]:
    """How vLLM is to batch them."""
    return {
        field_name(field, modality): MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
        for field in (PLAN_FIELD, COUNT_FIELD, KEY_FIELD)
        for modality in modalities
    }


def take_apart(processed: BatchFeature, configs: Configs, modality: str) -> dict[str, Any]:
    """The fields of the one item that was processed."""
    (item,) = MultiModalKwargsItems.from_hf_inputs(processed, configs)[modality]
    return {name: element.data for name, element in item.items()}


def put_together(
    items: Sequence[Mapping[str, Any]], configs_of: Callable[[BatchFeature], Configs]
) -> BatchFeature:
    """What processing all items at once would have returned.

    Args:
        configs_of: vLLM's configuration of the fields; it may read the small ones.
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
    """One tensor of values that are small and of one shape; else the list."""
    shapes = {value.shape if isinstance(value, torch.Tensor) else None for value in values}
    (shape,) = shapes if len(shapes) == 1 else (None,)
    return torch.stack(values) if shape is not None and len(shape) <= 1 else values


def _bytes(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()
