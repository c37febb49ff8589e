"""What names an image: one identifier with its plan, for vLLM's caches, and one without, for ours.

Equal plans share, different plans never do, and an image that is left whole keeps the stock hash.
"""

from __future__ import annotations

import hashlib

from .plan import Plan


def identifier(stock_hash: str, plan: Plan | None) -> str:
    """Return the identifier of an image, which keys every cache of vLLM's.

    Args:
        stock_hash: what stock vLLM would use: a hash of content and processor arguments, or the
            client's uuid.
        plan: None where pruning leaves it whole.
    """
    if plan is None:
        return stock_hash
    return f"{stock_hash}-script-{hashlib.blake2b(plan.encode(), digest_size=16).hexdigest()}"


def image_key(stock_hash: str, *size: int) -> bytes:
    """Return the key, 16 bytes, of an image or video before pruning, the same for all plans.

    A client may send pictures of different sizes under one uuid; the size in the key makes sure
    that what is found under it has the rows that this image's placeholders were counted for.
    """
    name = f"{stock_hash}-{'x'.join(map(str, size))}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, digest_size=16).digest()
