"""What is selected from: images of some shapes, random."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

SETTINGS: dict[str, Any] = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}
"""Of graph reduction."""
POOL_RATIO = 0.5
QUERY_ROWS = 2
"""Rows of the query of an image."""

KEEP_RATIOS = (0.056, 0.11, 0.25, 0.5)
# Tokens, dimensions, keep ratios and batch sizes.
FULL: tuple[tuple[Any, ...], ...] = ((576, 2880, 5760), (4096, 3584), KEEP_RATIOS, (1, 8, 32))
QUICK: tuple[tuple[Any, ...], ...] = ((576, 2880), (4096,), (0.11,), (1, 8))
ON_CPU: tuple[tuple[Any, ...], ...] = ((576,), (256,), (0.11, 0.5), (1, 2))


@dataclass(frozen=True)
class Shape:
    """Some images of the same shape."""

    tokens: int
    dim: int
    keep_ratio: float
    budget: int
    """Tokens of an image that stay."""
    batch: int

    @property
    def target(self) -> int:
        """Tokens of the pool of an image."""
        return max(self.budget, int(POOL_RATIO * self.tokens + 0.5))

    def of_all(self, number: int) -> list[int]:
        """A number that is the same for every image, image by image."""
        return [number] * self.batch


@dataclass(frozen=True)
class Inputs:
    """What selection reads: the rows of all images of a shape, one image after the other."""

    x: torch.Tensor
    relevance: torch.Tensor
    query: torch.Tensor
    shape: Shape

    @property
    def images(self) -> list[torch.Tensor]:
        """The rows [N, D] of each image."""
        return list(self.x.split(self.shape.tokens))

    @property
    def relevances(self) -> list[torch.Tensor]:
        """The relevance [N] of each image."""
        return list(self.relevance.split(self.shape.tokens))


def shapes(quick: bool, on_gpu: bool, only_tokens: Sequence[int] = ()) -> Iterator[Shape]:
    """All shapes of a run; `only_tokens`: those of images of so many tokens, if it names any."""
    chosen = ON_CPU if not on_gpu else QUICK if quick else FULL
    for tokens, dim, keep, batch in itertools.product(*chosen):
        if only_tokens and tokens not in only_tokens:
            continue
        # 322 of 2880 is what the plugin keeps of a 672x672 picture: newline tokens count too.
        budget = 322 if (tokens, keep) == (2880, 0.11) else round(keep * tokens)
        yield Shape(tokens, dim, keep, budget, batch)


def make_inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Clusters with a common offset: like real features, a third to a half alike on average."""
    generator = torch.Generator(device).manual_seed(0)
    options: dict[str, Any] = {"generator": generator, "device": device}
    num_rows = shape.tokens * shape.batch
    centres = torch.randn(shape.tokens // 4, shape.dim, **options) + 0.7
    labels = torch.randint(len(centres), (num_rows,), **options)
    x = (centres[labels] + 0.5 * torch.randn(num_rows, shape.dim, **options)).to(dtype)
    query = torch.randn(QUERY_ROWS * shape.batch, shape.dim, **options).to(dtype)
    return Inputs(x, torch.rand(num_rows, **options), query, shape)
