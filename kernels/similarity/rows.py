"""Cosines in plain PyTorch, computed when they are asked for, and no more of them than is needed.

The product of the rows is most of a selection's time on a CPU. So a pair that a block has twice is
multiplied once. And the first block of an image, which joins the one half of its tokens with the
other, is kept: half of the pairs that the later rounds of GSP and QCSP ask for are in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple

import torch

from .._triton import Backend
from ..norms import inverse_norms, unit_rows
from .base import Rows, Similarity

# Tokens of the largest image of which a block is kept: for larger ones it takes too much memory.
MOST_KEPT = 4096

# Rows that are multiplied at once with all before them, where each pair is multiplied once.
STRIP_ROWS = 240

_SETTING = Lock()


class Halves(NamedTuple):
    """Cosines of the tokens of one half of an image with those of the other half."""

    is_first: torch.Tensor
    """[N] bool: whether a token is a row of `values`; the others are columns."""

    place: torch.Tensor
    """[N] int64: which row, or which column."""

    values: torch.Tensor
    """[rows, columns] float32."""

    def between(
        self, rows: torch.Tensor, columns: torch.Tensor, rows_are_first: bool
    ) -> torch.Tensor:
        """Cosines [rows, columns] of some tokens of one half with some of the other."""
        rows, columns = self.place.index_select(0, rows), self.place.index_select(0, columns)
        if rows_are_first:
            return self.values.index_select(0, rows).index_select(1, columns)
        return self.values.index_select(0, columns).index_select(1, rows).T


class RowSimilarity(Similarity):
    """Cosines that are computed in plain PyTorch when they are asked for."""

    def __init__(self, images: Sequence[torch.Tensor], backend: Backend) -> None:
        super().__init__(images, backend)
        self._images = images
        self._inverse_norm = [inverse_norms(image, backend) for image in images]
        # The products of bfloat16 rows are exact in float32, so these are scaled afterwards, and
        # CPUs have instructions for that.
        self._by_bfloat16 = self.device.type == "cpu" and images[0].dtype == torch.bfloat16
        self._halves: dict[int, Halves] = {}

    def block(self, image: int, rows: Rows, columns: Rows) -> torch.Tensor:
        numbers = torch.arange(self.lengths[image], device=self.device)
        own_rows = numbers[rows]
        own_columns = own_rows if columns is rows else numbers[columns]
        halves = self._halves.get(image)
        if halves is not None:
            return self._with_halves(image, halves, own_rows, own_columns)
        values = self._cosines(image, own_rows, own_columns)
        if self._are_halves(image, own_rows, own_columns):
            place = torch.empty_like(numbers)
            place[own_rows] = numbers[: len(own_rows)]
            place[own_columns] = numbers[: len(own_columns)]
            is_first = torch.zeros_like(numbers, dtype=torch.bool).index_fill_(0, own_rows, 1)
            self._halves[image] = Halves(is_first, place, values)
        return values

    def has_length(self, image: int) -> torch.Tensor:
        return self._inverse_norm[image] != 0

    def _are_halves(self, image: int, rows: torch.Tensor, columns: torch.Tensor) -> bool:
        """Whether each token of an image that is not too large is a row or a column."""
        num_tokens = self.lengths[image]
        if num_tokens > MOST_KEPT or len(rows) + len(columns) != num_tokens:
            return False
        return bool((torch.cat([rows, columns]).bincount(minlength=num_tokens) == 1).all())

    def _with_halves(
        self, image: int, halves: Halves, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """A block of which the pairs in one half are computed, and the others copied."""
        row_is_first = halves.is_first.index_select(0, rows)
        column_is_first = halves.is_first.index_select(0, columns)
        block = halves.values.new_empty(len(rows), len(columns))
        for is_first in (True, False):
            (own,) = torch.where(row_is_first == is_first)
            (same,) = torch.where(column_is_first == is_first)
            (other,) = torch.where(column_is_first != is_first)
            own_rows = rows.index_select(0, own)
            same_columns = own_rows if columns is rows else columns.index_select(0, same)
            within = self._cosines(image, own_rows, same_columns)
            between = halves.between(own_rows, columns.index_select(0, other), is_first)
            order = torch.cat([same, other]).argsort()
            # Strip by strip, which stays in cache: to write memory that is new takes far longer.
            strips = zip(*(x.split(STRIP_ROWS) for x in (own, within, between)), strict=True)
            for places, *parts in strips:
                block.index_copy_(0, places, torch.cat(parts, 1).index_select(1, order))
        return block

    def _cosines(self, image: int, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Cosines of some rows with others, or with each other if these are the same tensor."""
        right, right_scale = self._float32(image, columns)
        block = right.new_empty(len(rows), len(columns))
        for start in range(0, len(rows), STRIP_ROWS):
            own, all_before = slice(start, start + STRIP_ROWS), slice(start + STRIP_ROWS)
            if columns is not rows:
                left, left_scale = self._float32(image, rows[own])
                block[own] = self._multiply(left, left_scale, right, right_scale)
                continue
            strip = self._multiply(
                *(right[own], right_scale[own], right[all_before], right_scale[all_before])
            )
            block[own, all_before] = strip
            block[:start, own] = strip[:, :start].T
        return block

    def _float32(self, image: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Some rows in float32, and what is left to scale their products by."""
        x = self._images[image].index_select(0, rows)
        inverse_norm = self._inverse_norm[image].index_select(0, rows)
        if not self._by_bfloat16:
            return unit_rows(x, inverse_norm), inverse_norm
        values = x.float()
        if not (inverse_norm > 0).all():
            values.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            values[inverse_norm == 0] = 0.0  # a product of theirs may be infinite
        return values, inverse_norm.abs()

    def _multiply(
        self,
        left: torch.Tensor,
        left_scale: torch.Tensor,
        right: torch.Tensor,
        right_scale: torch.Tensor,
    ) -> torch.Tensor:
        """Cosines of some rows with others, both as `_float32` has them."""
        if not self._by_bfloat16:
            return left @ right.T
        with _products_of_bfloat16():
            products = left @ right.T
        return products.mul_(left_scale[:, None]).mul_(right_scale)


@contextmanager
def _products_of_bfloat16() -> Iterator[None]:
    """Within, float32 products on a CPU may be computed from values rounded to bfloat16.

    Of values that are bfloat16 they are the same, several times as fast where the processor has
    instructions for it; sums are float32.
    """
    mkldnn: Any = torch.backends.mkldnn
    matmul = mkldnn.matmul
    with _SETTING:  # it is the process's
        before = matmul.fp32_precision
        matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            matmul.fp32_precision = before
