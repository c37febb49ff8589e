"""Classes of sizes, for each of which a kernel is compiled: few, so that all are at start-up."""

from __future__ import annotations

from collections.abc import Sequence

MAX_TOKENS = 8192
"""Tokens of an image that the kernels are compiled for at start-up; larger ones are compiled for
when they come. The plugin selects in no more than that many at once."""


def size_class(size: int, classes: Sequence[int]) -> int:
    """Return the smallest class, all of them powers of two, that has room for `size`.

    Beyond the largest it is the next power of two.
    """
    fitting = (each for each in classes if size <= each)
    return next(fitting, 1 << (size - 1).bit_length())
