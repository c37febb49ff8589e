"""Every variant of the kernels once, so that none is compiled while somebody waits for an answer.

Triton compiles a kernel when it is first launched, which takes seconds, and anew for other dtypes,
classes of sizes (_sizes.py), and where an argument is left out. Row lengths and dtype are a model's
own, so the variants that a server can reach are few, and known when it starts.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from . import Pool, gather_rows, greedy_map, inverse_norms, query_relevance, reduce_graph
from ._sizes import MAX_TOKENS
from ._triton import use_triton
from ._varlen import IMAGE_CLASSES
from .greedy_map import multiprocessors, programs_per_image, token_class
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
) -> None:
    """Launch all that selections of up to MAX_TOKENS tokens launch, on rows of zeros.

    It takes seconds for each variant at the first start on a machine. Then Triton has them on disk.

    Args:
        width: values of a visual token that selections read.
        copied_width: values of a visual token that are kept of it.
        relevance_widths: values of a row that is scored against a query, of each source.
        dtype: of all these rows.
        device: on which they are; one where kernels run.
    """

    def zeros(num_rows: int, num_values: int) -> torch.Tensor:
        return torch.zeros(num_rows, num_values, dtype=dtype, device=device)

    with torch.device("cpu"), torch.no_grad():  # whatever the caller builds its tensors on
        gather_rows(zeros(1, copied_width), torch.zeros(1, dtype=torch.int64, device=device))
        for each in relevance_widths:
            query_relevance(zeros(1, each), zeros(1, each))
        for lengths in _divisions():
            _reduce(zeros(sum(lengths), width), lengths)
        for num_tokens in _sizes(device):
            _select(zeros(num_tokens, width))


def _divisions() -> list[list[int]]:
    """Lengths of an image, or of the windows of a video, for each class of both that there is."""
    longest = {pair_class(size): size for size in range(MAX_TOKENS, 0, -1)}.values()
    one, some, _ = IMAGE_CLASSES
    # More windows than `some` have so few tokens each that they are of the smallest class.
    return [
        *([size] for size in longest),
        *([size] + [1] * one for size in longest),
        [1] * (some + 1),
    ]


def _sizes(device: torch.device) -> list[int]:
    """Tokens of an image for each class of them that programs of the selection take."""
    smallest = {}
    for size in range(MAX_TOKENS, 0, -1):
        num_programs = programs_per_image(size, 1, multiprocessors(device))
        smallest[token_class(size, num_programs)] = size
    return list(smallest.values())


def _reduce(x: torch.Tensor, lengths: list[int]) -> None:
    reduce_graph(x, [1] * len(lengths), tau=0.1, tau_relative=True, gamma=1.0, lengths=lengths)


def _select(x: torch.Tensor) -> None:
    """Pick one token, of all and of a pool, with and without frames."""
    rows = torch.arange(len(x), device=x.device)
    pool = Pool(rows, torch.full((1,), len(x), device=x.device))
    inverse_norm = inverse_norms(x)
    for candidates in None, pool:
        for floors in None, [1]:
            greedy_map(x, None, 1, pool=candidates, floors=floors, inverse_norm=inverse_norm)
