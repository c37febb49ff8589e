"""What is to be done with each image of a request, and how it travels between a processor's steps.

One processor serves concurrent requests, so orders are not kept on it: they go in the processor's
keyword arguments, and `take_orders` takes them out before anything stock sees these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .identity import image_key
from .plan import Plan

ORDERS_KEY = "script_orders"
"""Key that carries the orders of the images, list[Order], from `apply` to its steps."""

HASHES_KEY = "script_hashes"
"""Key that carries the identifiers of all items by modality, for `_get_mm_hashes`."""


@dataclass(frozen=True)
class Order:
    """What is to be done with one image."""

    plan: Plan | None
    """None to leave it whole."""

    key: bytes
    """Its name in the caches of pixels and of features; empty where it is to be kept out."""


def make_orders(
    plans: Sequence[Plan | None], stock_hashes: Sequence[str], images: Any, caching: bool
) -> list[Order]:
    """The orders of a request's images; one that is left whole, or not sent, is not cached."""
    orders = []
    for index, (plan, stock_hash) in enumerate(zip(plans, stock_hashes, strict=True)):
        key = b""
        if caching and plan is not None and images.get(index) is not None:
            size = images.get_image_size(index)
            key = image_key(stock_hash, size.height, size.width)
        orders.append(Order(plan, key))
    return orders


def take_orders(kwargs: Mapping[str, object]) -> tuple[list[Order], dict[str, object]]:
    """The orders among a processor's keyword arguments, and the arguments without them."""
    stock_kwargs = dict(kwargs)
    stock_kwargs.pop(HASHES_KEY, None)
    orders: Any = stock_kwargs.pop(ORDERS_KEY, [])
    return orders, stock_kwargs
