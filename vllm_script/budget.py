"""How many visual tokens of an image or video stay: an integer function of shape and settings.

The processor calls it to size placeholders, the model calls it again to select rows; both call
this, so they cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate


def num_kept(
    num_placeholders: int,
    num_patches: int,
    minimum: int = 1,
    *,
    keep_ratio: float | None = None,
    visual_token_budget: int | None = None,
) -> int | None:
    """Return the number of visual tokens to keep, or None to leave the image whole.

    Args:
        num_placeholders: N, tokens that stock vLLM would use, newline rows included.
        num_patches: P <= N, the patch tokens among them; only these can be kept.
        minimum: fewest to keep, such as one of every frame of a video.
        keep_ratio: part of N to keep, in (0, 1]; 1.0 leaves the image whole.
        visual_token_budget: tokens to keep instead; N or more leaves the image whole.

    Source: the paper counts against tiles x patches before unpadding; we count against N, because
    that is what the unpruned request costs.
    """
    if visual_token_budget is not None:
        wanted = visual_token_budget
        whole = wanted >= num_placeholders
    else:
        assert keep_ratio is not None, "a keep_ratio or a visual_token_budget"
        wanted = math.floor(keep_ratio * num_placeholders + 0.5)  # round() would go to even
        whole = keep_ratio == 1
    kept = min(max(minimum, wanted), num_patches)
    return None if whole or kept == num_placeholders else kept


def num_survivors(num_patches: int, tower_keep: float) -> int:
    """Patches that a thinned vision tower leaves of a tile or frame of `num_patches`: one at least.

    Args:
        tower_keep: share of them that stays, in (0, 1].
    """
    return max(1, math.floor(tower_keep * num_patches + 0.5))


def shares(total: int, lengths: Sequence[int]) -> list[int]:
    """`total` cut into whole shares as the parts of these lengths have them of their sum."""
    ends = [total * end // sum(lengths) for end in accumulate(lengths)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def even_shares(total: int, num_shares: int) -> list[int]:
    """`total` cut into shares that differ by at most one, the larger ones spread evenly."""
    return shares(total, [1] * num_shares)
