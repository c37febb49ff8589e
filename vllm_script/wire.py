"""What the API process tells the worker about an item: packed here, unpacked here.

Three fields travel beside the pixels of each image or video, as fields of vLLM's own multimodal
inputs. They stay on the CPU, so that the worker reads them without waiting for the GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.multimodal.inputs import MultiModalFieldConfig

from .plan import Plan

PLAN = "script_plan"
"""Field with the bytes of the item's plan, uint8 [length]; empty to leave the item whole."""

COUNT = "script_count"
"""Field with the rows that the item's placeholders expect, int64 []; 0 where the plan is empty."""

KEY = "script_key"
"""Field with the item's key in the worker's feature cache, uint8 [16]; empty to keep it out."""


@dataclass(frozen=True)
class PackedItem:
    """What the worker is to do with one image or video."""

    plan: Plan
    """The settings that its selection depends on."""
    count: int
    """Visual tokens to keep: the placeholders that it has in the prompt."""
    key: bytes
    """Key of its features in the worker's cache, 16 bytes; empty to keep them out."""


def pack(item: PackedItem | None, modality: str) -> dict[str, torch.Tensor]:
    """Return our fields of an item, by name; None packs an item that is left whole."""
    if item is None:
        plan, count, key = b"", 0, b""
    else:
        plan, count, key = item.plan.encode(), item.count, item.key
    values = {PLAN: _to_tensor(plan), COUNT: torch.tensor(count), KEY: _to_tensor(key)}
    return {_name(field, modality): value for field, value in values.items()}


def unpack(kwargs: dict[str, Any], modality: str) -> list[PackedItem | None] | None:
    """Take our fields of a batch of items out of `kwargs`, the arguments of `embed_multimodal`.

    Returns:
        what to do with each item, None to leave it whole; None instead of a list where the batch
        did not pass through our processor, as vLLM's dummies of whole items.
    """
    columns = [kwargs.pop(_name(field, modality), None) for field in (PLAN, COUNT, KEY)]
    if columns[0] is None:
        return None
    return [
        PackedItem(Plan.decode(_to_bytes(plan)), int(count), _to_bytes(key)) if len(plan) else None
        for plan, count, key in zip(*columns, strict=True)
    ]


def packed_count(item: Mapping[str, Any], modality: str) -> int | None:
    """Return how many visual tokens to keep of an item with these fields; None to keep all.

    Args:
        item: vLLM's field elements of one item, by name.
    """
    field = item.get(_name(COUNT, modality))
    return int(field.data) or None if field is not None else None


def field_configs(modalities: Sequence[str]) -> dict[str, MultiModalFieldConfig]:
    """Return how vLLM is to batch our fields, by field name."""
    return {
        _name(field, modality): MultiModalFieldConfig.batched(modality, keep_on_cpu=True)
        for field in (PLAN, COUNT, KEY)
        for modality in modalities
    }


def _name(field: str, modality: str) -> str:
    """Name of a field for that modality; vLLM gives every name to one modality alone."""
    return field if modality == "image" else f"{field}_{modality}"


def _to_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def _to_bytes(data: torch.Tensor) -> bytes:
    return bytes(data.tolist())
