"""Query relevance: how much each visual token has to do with the user's text; high = keep.

score[i] = polarity * mean over query rows q of cosine(visual[i], q), rescaled to [0, 1].

Source: CDPruner, Theia-4869/CDPruner@9541616 llava/model/llava_arch.py, `encode_images`.
Differs: polarity is an argument there fixed to -1, and flat scores give ones, not a blow-up.
"""

from __future__ import annotations

import torch

# The published offset. It keeps the least relevant token selectable: relevance is never 0.
EPSILON = 1e-6


def query_relevance(visual: torch.Tensor, query: torch.Tensor, polarity: int = 1) -> torch.Tensor:
    """Score every visual token against the query.

    Args:
        visual: [N, C] visual tokens in the space of the query.
        query: [M, C] query rows, each with the same say.
        polarity: +1 where a high cosine means relevant, -1 where a low one does.

    Returns:
        relevance [N] float32 as `normalize_relevance` scales it, over all N rows at once.

    Raises:
        ValueError: polarity is neither +1 nor -1.
    """
    if polarity not in (1, -1):
        raise ValueError(f"polarity must be 1 or -1, got {polarity!r}")
    # The mean of cosines is one product with the mean query direction.
    return normalize_relevance(polarity * (unit_rows(visual) @ unit_rows(query).mean(0)))


def normalize_relevance(scores: torch.Tensor) -> torch.Tensor:
    """Rescale scores [N] to relevance [N]: (scores - min + EPSILON) / (max - min).

    The maximum is 1 + EPSILON / (max - min). Scores that spread less than EPSILON differ by
    rounding only, so they say nothing about the query: all ones.
    """
    low, high = scores.aminmax()
    spread = high - low
    return torch.where(spread < EPSILON, 1.0, (scores - low + EPSILON) / spread)


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """Scale each row of x [N, D] to length 1, float32 and contiguous: products are cosines.

    Zero rows stay zero, so their cosine with anything is 0, and so do rows whose norm leaves
    the range of float32. A feature that is NaN or infinite counts as 0.
    """
    x = x.float().contiguous().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # [N, 1]
    return x / torch.where(norm > 0, norm, 1.0)
