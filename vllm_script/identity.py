"""The identifier of a pruned image, which keys every cache: stock hash, plus its effective plan.

Equal plans share, different plans never do, and an image that is left whole keeps the stock hash.
"""

from __future__ import annotations

import hashlib

from .plan import Plan


def identifier(stock_hash: str, plan: Plan | None) -> str:
    """Return the identifier of an image; `plan` is None where pruning leaves it whole."""
    if plan is None:
        return stock_hash
    return f"{stock_hash}-script-{hashlib.blake2b(plan.encode(), digest_size=16).hexdigest()}"
