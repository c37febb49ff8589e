"""What is to be done with each item of a request, and how it travels between a processor's steps.

One processor serves concurrent requests, so orders are not kept on it: they go in the processor's
keyword arguments, and `take_orders` takes them out before anything stock sees these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..identity import identifier, image_key
from ..plan import Plan

ORDERS_KEY = "script_orders"
"""Key that carries the orders by modality, dict[str, list[Order]], from `apply` to its steps."""

HASHES_KEY = "script_hashes"
"""Key that carries the identifiers of all items by modality, for `_get_mm_hashes`."""


@dataclass(frozen=True)
class Order:
    """What is to be done with one image or video."""

    plan: Plan | None
    """None to leave it whole."""

    key: bytes
    """Its name in the cache of pixels; empty where it is to be kept out of the caches."""

    identifier: str
    """Its name in vLLM's caches."""


def make_orders(
    plans: Sequence[Plan | None], stock_hashes: Sequence[str], items: Any, caching: bool
) -> list[Order]:
    """The orders of a request's items; one that is left whole, or not sent, is not cached."""
    orders = []
    for index, (plan, stock_hash) in enumerate(zip(plans, stock_hashes, strict=True)):
        size = size_of(items, index) if caching and plan is not None else None
        key = image_key(stock_hash, *size) if size else b""
        orders.append(Order(plan, key, identifier(stock_hash, plan)))
    return orders


def size_of(items: Any, index: int) -> tuple[int, ...] | None:
    """Height and width of an image, the shape of a video; None of a reference by uuid alone."""
    item = items.get(index)
    if item is None:
        return None
    if items.modality == "image":
        size = items.get_image_size(index)
        return size.height, size.width
    frames = item[0] if isinstance(item, tuple) else item  # with its metadata
    return len(frames), *np.shape(frames[0])


def take_orders(kwargs: Mapping[str, object]) -> tuple[Any, dict[str, object]]:
    """The orders among a processor's keyword arguments, and the arguments without them."""
    stock_kwargs = dict(kwargs)
    stock_kwargs.pop(HASHES_KEY, None)
    return stock_kwargs.pop(ORDERS_KEY, {}), stock_kwargs
