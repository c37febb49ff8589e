"""The items of a call of the model: out of vLLM's batch one by one, and in portions of a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..wire import PackedItem

Item = tuple[dict[str, Any], PackedItem | None]
"""Fields of one item as vLLM batches a single one, and what to do with it: None to leave it
whole."""


def one_of(values: Any, index: int) -> Any:
    """A field of one item out of a batch, batched as vLLM batches a single item."""
    value = values[index]
    return value[None] if isinstance(value, torch.Tensor) else [value]


def split_flat(fields: dict[str, Any], sizes: torch.Tensor) -> Iterator[dict[str, Any]]:
    """Yield the fields of a batch, item by item, where the pixels of all items are in one tensor.

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


def portions(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Yield the items of a call in portions of at most `most` visual tokens before pruning.

    An item that has more is one alone. What the scheduler puts into a step is one portion, see
    encoder_work.py; vLLM's dummies may be more, for it counts what stays of them.
    """
    portion: list[Item] = []
    tokens = 0
    for fields, item in items:
        own = 0 if item is None else item.total
        if portion and tokens + own > most:
            yield portion
            portion, tokens = [], 0
        portion.append((fields, item))
        tokens += own
    yield portion
