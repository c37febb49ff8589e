"""Geometry correction: likeness as it is around the mean token of an image, not around zero.

All tokens of an image share a direction, and the cosine of any two says mostly that. With geometry
`centered` the cosines are those of what is left without the mean token mu,

    S_ij = cosine(x_i - mu, x_j - mu)

and a token counts for more, the less it is like the image as a whole: for its distinctiveness, 1 -
its mean cosine with all tokens, rescaled to [0, 1]. What is close to the mean has some direction
around it, too, so centred cosines alone would take the dullest tokens for diverse.

GSP's graph and the likeness that `coverage` has stay as they are: the one has a threshold that
counts from the mean cosine, in the other what all tokens have in common cancels out.

Source: Cen-Prune, arXiv 2608.30263, sec. 4.3, A.3 and A.4. Differs: of Qwen's models it reads the
patches before the merger, scaled by their deviation, and rescales distinctiveness there with a
sigmoid; here tokens are read where they enter the language model, and rescaled by minimum and
maximum. Centred rows are rounded to the dtype of the tokens, as the encoder rounded these.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from vllm_script.kernels import (
    Backend,
    Similarity,
    cosine_similarity,
    inverse_norms,
    query_relevance,
    unit_peak,
    unit_rows,
)

from .task import Task

# Rows that are copied at once on a CPU: a copy of all would be memory new to the process.
BLOCK_ROWS = 256


def corrected_similarity(tasks: Sequence[Task], raw: Similarity | None = None) -> Similarity:
    """How alike the tokens of each task are, by the geometry of the tasks.

    Args:
        raw: the cosines as they are, where the caller has them.
    """
    if tasks[0].params.geometry == "raw":
        if raw is not None:
            return raw
        rows = [task.tokens for task in tasks]
    else:
        rows = [centered(task.tokens) for task in tasks]
    return cosine_similarity(rows, backend=tasks[0].backend)


def centered(tokens: torch.Tensor) -> torch.Tensor:
    """The tokens [N, D] without their mean, of their dtype; NaN and infinite features as 0."""
    blocks = _blocks(tokens)
    sums = torch.stack([_finite(block).sum(0) for block in blocks])
    mean = sums.sum(0) / len(tokens)
    return torch.cat([_finite(block).sub_(mean).to(tokens.dtype) for block in blocks])


def weights_of(
    tasks: Sequence[Task], relevances: Sequence[torch.Tensor | None]
) -> torch.Tensor | None:
    """What each token of some tasks counts for, one task after the other.

    Args:
        relevances: of the tokens of each task, of all tasks or of none; None: it has no say.

    Returns:
        float32 >= 0, of which in a task only the ratios matter: the relevance where geometry is
        `raw`, and with `centered` its product with the distinctiveness. None: all are the same.
    """
    found = [
        own
        for task, relevance in zip(tasks, relevances, strict=True)
        if (own := _weight_of(task, relevance)) is not None
    ]
    assert len(found) in (0, len(tasks)), "all tasks of a group have a relevance, or none has"
    return torch.cat(found) if found else None


def _weight_of(task: Task, relevance: torch.Tensor | None) -> torch.Tensor | None:
    """What each token of a task counts for, [N], as `weights_of` has it."""
    if task.params.geometry == "raw":
        return relevance
    distinct = distinctiveness(task.tokens, task.backend)
    return distinct if relevance is None else unit_peak(relevance) * distinct


def distinctiveness(tokens: torch.Tensor, backend: Backend = "auto") -> torch.Tensor:
    """How unlike the image as a whole each token is, [N] float32, high = distinct.

    The mean cosine with all tokens is that with the mean direction, but for a factor. So this is
    the relevance to the mean direction with its sign turned, rescaled in the same way.
    """
    sums = [unit_rows(block, inverse_norms(block, backend)).sum(0) for block in _blocks(tokens)]
    direction = torch.stack(sums).sum(0, keepdim=True) / len(tokens)
    return query_relevance(tokens, direction, -1, backend=backend)


def _blocks(tokens: torch.Tensor) -> Sequence[torch.Tensor]:
    """All rows, in blocks that a CPU's cache has room for; elsewhere one is launched at once."""
    size = BLOCK_ROWS if tokens.device.type == "cpu" else len(tokens)
    return [tokens[start : start + size] for start in range(0, len(tokens), size)]


def _finite(rows: torch.Tensor) -> torch.Tensor:
    """A copy of rows in float32, where NaN and infinite values are 0."""
    copy = rows.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return copy.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
