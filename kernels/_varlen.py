"""Many images in one tensor: the rows of image i are packed[offsets[i] : offsets[i + 1]].

A launch cuts every image into blocks of its own, so what is computed for an image does not depend
on the other images of the batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate
from typing import TypeVar

from ._sizes import size_class
from ._triton import jit, tl

K = TypeVar("K", bound=Hashable)

# One image, or as many as a step may have.
IMAGE_CLASSES = (1, 64)


def offsets_of(lengths: Iterable[int]) -> list[int]:
    """[0, first length, first two lengths, ...]."""
    return [0, *accumulate(lengths)]


def places_by(kinds: Iterable[K]) -> dict[K, list[int]]:
    """Places of each kind: images that a kernel is compiled for in the same way share a launch.

    So what is computed of an image does not depend on the others.
    """
    places: dict[K, list[int]] = {}
    for place, kind in enumerate(kinds):
        places.setdefault(kind, []).append(place)
    return places


def check_lengths(lengths: Sequence[int] | None, num_rows: int, name: str) -> list[int]:
    """Rows of each image; without lengths all rows are of one image.

    Raises:
        ValueError: the lengths do not add up to the rows.
    """
    if lengths is None:
        return [num_rows]
    if sum(lengths) != num_rows:
        raise ValueError(f"{name} add up to {sum(lengths)} rows, got {num_rows}")
    return list(lengths)


def check_budgets(
    name: str, budgets: Sequence[int], lengths: Sequence[int], most: Sequence[int]
) -> list[int]:
    """One count for each image, at least 1 and at most what the image allows.

    Raises:
        ValueError: there are more or fewer counts than images, or one is out of range.
    """
    counts = list(budgets)
    if len(counts) != len(lengths):
        raise ValueError(f"there must be a {name} for each of {len(lengths)} images, got {counts}")
    for count, limit in zip(counts, most, strict=True):
        if not 1 <= count <= limit:
            raise ValueError(f"{name} must be in [1, {limit}], got {count}")
    return counts


def image_class(num_images: int) -> int:
    """Images that a program of a kernel looks through, where it is one of that many."""
    return size_class(num_images, IMAGE_CLASSES)


def max_blocks(num_rows: int, num_images: int, block: int) -> int:
    """Blocks that are enough for any division of the rows among the images."""
    return -(-num_rows // block) + num_images - 1


@jit
def locate(item, num_items):
    """(image, item within it) of a running number, given the items of each image [images].

    A number past the end is in an image past the end.
    """
    before = tl.cumsum(num_items, 0) <= item
    image = tl.sum(before.to(tl.int32), 0)
    return image, item - tl.sum(tl.where(before, num_items, 0), 0)


@jit
def locate_block(
    block, offsets_ptr, num_images, BLOCK_ROWS: tl.constexpr, BLOCK_IMAGES: tl.constexpr
):
    """(image, end of image, first row of the block); an image past the end: nothing to do."""
    images = tl.arange(0, BLOCK_IMAGES)
    starts = tl.load(offsets_ptr + images, mask=images < num_images, other=0)
    ends = tl.load(offsets_ptr + images + 1, mask=images < num_images, other=0)
    blocks = (ends - starts + BLOCK_ROWS - 1) // BLOCK_ROWS
    image, own_block = locate(block, tl.where(images < num_images, blocks, 0))
    image = tl.where(image < num_images, image, num_images)
    start = tl.sum(tl.where(images == image, starts, 0), 0)
    end = tl.sum(tl.where(images == image, ends, 0), 0)
    return image, end, start + own_block * BLOCK_ROWS
