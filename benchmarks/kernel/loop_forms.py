"""Selections to compare times with, written for that: what they select is not looked at.

`published_selection` has the form of the published code: a full graph scored once, a kernel matrix
of all tokens, then a loop on the host of about a dozen launches a kept token, with a look at the
device in each. `compiled_selection` is what torch.compile makes of the best such loop: steps of a
fixed shape in one graph, no look at the device.
"""

from __future__ import annotations

import torch

from vllm_script.kernels import cosine_similarity, unit_rows
from vllm_script.kernels.reduce_graph import reduce_graph_reference

from .inputs import SETTINGS

THRESHOLD = 0.2


def published_selection(
    x: torch.Tensor, relevance: torch.Tensor, target: int, budget: int
) -> torch.Tensor:
    """Keep `budget` rows of an image [N, D], by a graph over all tokens and a loop on the host."""
    unit = torch.nn.functional.normalize(x.float(), dim=1)
    similarity = unit @ unit.T
    edges = torch.where(similarity > THRESHOLD, similarity, 0.0)
    degree = (edges > 0).sum(1)
    redundancy = degree * torch.exp(edges.sum(1) / degree.clamp(min=1) - THRESHOLD)
    spare = redundancy.topk(target, largest=False).indices

    kernel = relevance[:, None] * similarity * relevance[None, :]
    residual = kernel.diagonal().clone()
    factor = torch.zeros(budget, len(x), device=x.device)
    picks = []
    for step in range(budget):
        pick = torch.argmax(residual)
        if residual[pick].item() <= 0:
            break
        picks.append(pick)
        projected = torch.einsum("k,kn->n", factor[:step, pick], factor[:step])
        row = (kernel[pick] - projected) / torch.sqrt(residual[pick])
        factor[step] = row
        residual = residual - torch.square(row)
        residual[pick] = -torch.inf
    kept = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    kept[torch.stack(picks)] = True
    kept[spare[: budget - int(kept.sum())]] = True
    return x[kept]


def compiled_selection(
    x: torch.Tensor, relevance: torch.Tensor, target: int, budget: int
) -> torch.Tensor:
    """Keep `budget` rows of an image [N, D]: the reference, its steps compiled."""
    rows = torch.arange(len(x), device=x.device)
    similarity = cosine_similarity([x], backend="torch")
    pool = reduce_graph_reference(similarity, 0, rows, target, **SETTINGS)
    weighted = unit_rows(x)[pool] * relevance[pool][:, None]
    kernel = weighted @ weighted.T
    residual = relevance[pool].square()
    factor = torch.zeros(budget, len(pool), device=x.device)
    picks = torch.zeros(budget, dtype=torch.int64, device=x.device)
    for step in range(budget):
        _step(torch.tensor(step), kernel, residual, factor, picks)
    return x[pool[picks].sort().values]


@torch.compile(dynamic=False)
def _step(
    step: torch.Tensor,
    kernel: torch.Tensor,
    residual: torch.Tensor,
    factor: torch.Tensor,
    picks: torch.Tensor,
) -> None:
    pick = residual.argmax(0, keepdim=True)
    row = kernel[pick][0] - factor[:, pick].T[0] @ factor
    row = row * residual[pick].rsqrt()
    is_step = torch.arange(len(factor), device=factor.device) == step
    factor.copy_(torch.where(is_step[:, None], row, factor))
    picks.copy_(torch.where(is_step, pick, picks))
    residual.copy_(residual - row.square())
    residual.index_fill_(0, pick, -torch.inf)
