"""What the API process tells the engine process about an item: packed here, unpacked here.

Four fields travel beside the pixels of each image or video, as fields of vLLM's own multimodal
inputs. They stay on the CPU, so that the worker reads them without waiting for the GPU. One of them
is for the scheduler. A fifth marks the dummies of start-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from vllm.multimodal.inputs import (
    MultiModalBatchedField,
    MultiModalFieldConfig,
    MultiModalFieldElem,
)

from .plan import Plan

PLAN = "script_plan"
"""Field with the bytes of the item's plan, uint8 [length]; empty to leave the item whole."""

COUNT = "script_count"
"""Field with the rows that the item's placeholders expect, int64 []; 0 where the plan is empty."""

TOTAL = "script_total"
"""Field with the rows that the item has before pruning, int64 []; 0 where the plan is empty."""

KEY = "script_key"
"""Field with the item's key in the worker's feature cache, uint8 [16]; empty to keep it out."""

DUMMY = "script_dummy"
"""Field of the items that vLLM profiles memory with, and of no others, bool []."""

MORE_THAN_ANY_STEP = 2**31
"""Stands for a number of visual tokens that is not known."""

FIELDS = (PLAN, COUNT, TOTAL, KEY)


PRUNING_FIELD = "field_for_the_script_plugin"
"""What vLLM calls `PruningField` between processes. A server without this plugin does not know the
name: what was rendered for a pruning server is an error there."""


class PruningField(MultiModalBatchedField):
    """The type of all these fields, with an element for each item."""


@dataclass(frozen=True)
class PackedItem:
    """What the worker is to do with one image or video."""

    plan: Plan
    """The settings that its selection depends on."""
    count: int
    """Visual tokens to keep: the placeholders that it has in the prompt."""
    total: int
    """Visual tokens before pruning, which is what encoding it takes."""
    key: bytes
    """Key of its features in the worker's cache, 16 bytes; empty to keep them out."""


def pack(item: PackedItem | None, modality: str) -> dict[str, torch.Tensor]:
    """Return our fields of an item, by name; None packs an item that is left whole."""
    if item is None:
        plan, count, total, key = b"", 0, 0, b""
    else:
        plan, count, total, key = item.plan.encode(), item.count, item.total, item.key
    values = {
        PLAN: _to_tensor(plan),
        COUNT: torch.tensor(count),
        TOTAL: torch.tensor(total),
        KEY: _to_tensor(key),
    }
    return {_name(field, modality): value for field, value in values.items()}


def unpack(kwargs: dict[str, Any], modality: str) -> list[PackedItem | None] | None:
    """Take our fields of a batch of items out of `kwargs`, the arguments of `embed_multimodal`.

    Returns:
        what to do with each item, None to leave it whole; None instead of a list where all items
        of the batch are left whole.
    """
    columns = [kwargs.pop(_name(field, modality), None) for field in FIELDS]
    if columns[0] is None:
        return None
    return [
        PackedItem(Plan.decode(_to_bytes(plan)), int(count), int(total), _to_bytes(key))
        if len(plan)
        else None
        for plan, count, total, key in zip(*columns, strict=True)
    ]


def mark_dummies(num_items: int, modality: str) -> dict[str, torch.Tensor]:
    """Return the field by which the worker knows vLLM's dummies, for a batch of them."""
    return {_name(DUMMY, modality): torch.ones(num_items, dtype=torch.bool)}


def take_mark(kwargs: dict[str, Any], modality: str) -> bool:
    """Take the mark of dummies out of `kwargs`, the arguments of `embed_multimodal`.

    Returns:
        whether they are vLLM's dummies.
    """
    return kwargs.pop(_name(DUMMY, modality), None) is not None


def packed_count(item: Mapping[str, Any], modality: str) -> int | None:
    """Return how many visual tokens to keep of an item with these fields; None to keep all.

    Args:
        item: vLLM's field elements of one item, by name.
    """
    return _packed_number(item, COUNT, modality)


def packed_total(item: Mapping[str, Any], modality: str) -> int | None:
    """Return how many visual tokens an item with these fields has before pruning.

    Args:
        item: vLLM's field elements of one item, by name.

    Returns:
        None of an item that is left whole: it has its placeholders.
    """
    return _packed_number(item, TOTAL, modality)


def total_alone(total: int | None, modality: str) -> dict[str, MultiModalFieldElem]:
    """Return vLLM's field element with what `packed_total` reads, for an item without our fields.

    Args:
        total: None where it is not known: the item then counts as more than any step may encode.
    """
    name = _name(TOTAL, modality)
    data = torch.tensor(MORE_THAN_ANY_STEP if total is None else total)
    return {name: MultiModalFieldElem(data=data, field=field_configs([modality])[name].field)}


def field_configs(modalities: Sequence[str]) -> dict[str, MultiModalFieldConfig]:
    """Return how vLLM is to batch our fields, by field name."""
    return {
        _name(field, modality): MultiModalFieldConfig(
            field=PruningField(keep_on_cpu=True), modality=modality
        )
        for field in (*FIELDS, DUMMY)
        for modality in modalities
    }


def _packed_number(item: Mapping[str, Any], field: str, modality: str) -> int | None:
    """A count among the fields of an item; None where it is 0 or not there."""
    element = item.get(_name(field, modality))
    return int(element.data) or None if element is not None else None


def _name(field: str, modality: str) -> str:
    """Name of a field for that modality; vLLM gives every name to one modality alone."""
    return field if modality == "image" else f"{field}_{modality}"


def _to_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0).byte()


def _to_bytes(data: torch.Tensor) -> bytes:
    return bytes(data.tolist())
