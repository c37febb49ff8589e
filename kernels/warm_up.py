"""Every variant of the kernels once, so that none is compiled while somebody waits for an answer.

Triton compiles a kernel when it is first launched, which takes seconds, and anew for other dtypes,
classes of sizes (_sizes.py), and where an argument is left out. Row lengths and dtype are a model's
own, so the variants that a server can reach are few, and known when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from . import (
    Pool,
    Similarity,
    cosine_similarity,
    farthest_first,
    gather_rows,
    greedy_cover,
    greedy_map,
    query_relevance,
    reduce_graph,
)
from ._launch import num_waiting_programs
from ._sizes import MAX_TOKENS
from ._triton import Backend, use_triton
from .greedy_map import program_class, token_class
from .reduce_graph import pair_class


def kernels_run(device: torch.device) -> bool:
    """Whether the ops run as kernels on that device, by default, and not as their references."""
    return use_triton("auto", torch.empty(0, device=device))


def warm_up(
    width: int,
    copied_width: int,
    relevance_widths: Iterable[int],
    dtype: torch.dtype,
    device: torch.device,
    backend: Backend = "auto",
    similarity_widths: Sequence[int] = (),
) -> None:
    """Launch all that selections of up to MAX_TOKENS tokens launch, on rows of zeros.

    It takes seconds for each variant at the first start on a machine. Then Triton has them on disk.

    Args:
        width: values of a visual token that selections read.
        copied_width: values of a visual token that are kept of it.
        relevance_widths: values of a row that is scored against a query, of each source.
        dtype: of all these rows.
        device: on which they are; one where kernels run.
        backend: "auto", or "triton" where a kernel that does not build or launch is an error.
        similarity_widths: values of other rows that are compared with each other.
    """

    def zeros(num_rows: int, num_values: int) -> torch.Tensor:
        return torch.zeros(num_rows, num_values, dtype=dtype, device=device)

    with torch.device("cpu"), torch.no_grad():  # whatever the caller builds its tensors on
        kept = torch.zeros(1, dtype=torch.int64, device=device)
        gather_rows(zeros(1, copied_width), kept, backend)
        for each in relevance_widths:
            query_relevance(zeros(1, each), zeros(1, each), backend=backend)
        for each in (width, *similarity_widths):
            # To the mean direction of the tokens, which is float32.
            query_relevance(zeros(1, each), zeros(1, each).float(), backend=backend)
        for num_tokens in _sizes(device):
            similarity = cosine_similarity([zeros(num_tokens, width)], backend=backend)
            _reduce(similarity)
            _select(similarity)
            for each in similarity_widths:
                cosine_similarity([zeros(num_tokens, each)], backend=backend)


def _sizes(device: torch.device) -> list[int]:
    """Tokens of the smallest image of each class that kernels are compiled for."""
    smallest = {}
    for size in range(MAX_TOKENS, 0, -1):
        block_tokens = token_class(size, num_waiting_programs(device))
        smallest[pair_class(size), block_tokens, program_class(size, block_tokens)] = size
    return list(smallest.values())


def _reduce(similarity: Similarity) -> None:
    """A round of an image, and of a video of one window."""
    (num_tokens,) = similarity.lengths
    for windows in None, [torch.arange(num_tokens)]:
        reduce_graph(similarity, [1], tau=0.1, tau_relative=True, gamma=1.0, windows=windows)


def _select(similarity: Similarity) -> None:
    """Pick one token in every way; by greedy MAP of all and of a pool, with and without frames,
    and by a cluster, if it may be."""
    (num_tokens,), device = similarity.lengths, similarity.device
    rows = torch.arange(num_tokens, device=device)
    pool = Pool(rows, torch.full((1,), num_tokens, device=device))
    for candidates in None, pool:
        for floors in None, [1]:
            greedy_map(similarity, None, [1], pool=candidates, floors=floors, clusters=False)
    greedy_map(similarity, None, [1])
    for bonus in None, torch.zeros(num_tokens, device=device):
        farthest_first(similarity, [1], bonus=bonus)
    greedy_cover(similarity, [1])
