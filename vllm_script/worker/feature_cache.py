"""The worker's memory of images: a new question about a known one costs a selection, no encoding.

Its rows are allocated with the weights and kept for good, so that vLLM's memory profiling counts
them and a full cache takes no more than an empty one. Images get whole pages of rows, so nothing
fragments. What is kept depends on the sequence of images alone: tensor-parallel ranks agree.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ..config import DEFAULT_CACHE_GB
from ..kernels import to_device
from ..layout import Layout
from .encoded_image import EncodedImage, Survivors

# 576 patches of a tile fill 9 pages; the last page of an image is all that can be partly empty.
PAGE_ROWS = 64
GPU_SHARE = 0.02


@dataclass(frozen=True)
class _Entry:
    pages: list[int]
    rows: torch.Tensor
    """[tiles * patches] int64 on CPU: the image's rows in the cache, in encoder order."""
    layout: Layout
    survivors: Survivors | None
    """Of a thinned tower; 8 bytes a row, beside the pages."""


def default_capacity_gb(device: torch.device, tp_group: Any) -> float:
    """Return the cache's size in GiB where the operator chose none: 1, at most 2 % of the GPU.

    It is the same on all ranks of a tensor-parallel group, the smallest of theirs. With caches of
    different sizes they would not keep the same images, and a rank that encodes one would wait
    without end for another that does not.

    Args:
        device: of the model.
        tp_group: vLLM's tensor-parallel group of this worker.
    """
    capacity = DEFAULT_CACHE_GB
    if device.type != "cpu":
        _, total = torch.accelerator.get_memory_info()
        capacity = min(capacity, GPU_SHARE * total / 2**30)
    if tp_group.world_size == 1:
        return capacity
    smallest = torch.tensor(capacity, dtype=torch.float64, device="cpu")
    dist.all_reduce(smallest, dist.ReduceOp.MIN, tp_group.cpu_group)
    return smallest.item()


class FeatureCache:
    """Encoded images by key. The least recently used go first; one too large is not kept.

    Args:
        capacity_gb: size in GiB; 0 keeps nothing.
        state_width, feature_width: H and D of the images.
        dtype, device: of their states and features.
    """

    def __init__(
        self,
        capacity_gb: float,
        state_width: int,
        feature_width: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self._page_bytes = PAGE_ROWS * (state_width + feature_width) * dtype.itemsize
        num_pages = int(capacity_gb * 2**30) // self._page_bytes
        num_rows = num_pages * PAGE_ROWS
        self._states = torch.empty(num_rows, state_width, dtype=dtype, device=device)
        self._features = torch.empty(num_rows, feature_width, dtype=dtype, device=device)
        self._num_pages = num_pages
        self._images: OrderedDict[bytes, _Entry] = OrderedDict()  # least recently used first
        self._free = list(reversed(range(num_pages)))  # taken from the end
        self.hits = 0
        self.misses = 0

    def get(self, key: bytes) -> EncodedImage | None:
        """The image of that key, a copy; None where it is not kept."""
        entry = self._images.get(key)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        self._images.move_to_end(key)
        rows = to_device(entry.rows, self._states.device)
        states, features = self._states.index_select(0, rows), self._features.index_select(0, rows)
        return EncodedImage(states, features, entry.layout, entry.survivors)

    def put(self, key: bytes, image: EncodedImage) -> None:
        """Keep a copy of an image whose key is not known."""
        num_rows = len(image.features)
        num_pages = -(-num_rows // PAGE_ROWS)
        if num_pages > self._num_pages:
            return
        while len(self._free) < num_pages:
            _, evicted = self._images.popitem(last=False)
            self._free += evicted.pages
        pages = [self._free.pop() for _ in range(num_pages)]
        page_starts = torch.tensor(pages)[:, None] * PAGE_ROWS
        rows = (page_starts + torch.arange(PAGE_ROWS)).flatten()[:num_rows]
        on_device = to_device(rows, self._states.device)
        self._states.index_copy_(0, on_device, image.states)
        self._features.index_copy_(0, on_device, image.features)
        self._images[key] = _Entry(pages, rows, image.layout, image.survivors)

    @property
    def num_bytes(self) -> int:
        """Memory of the pages in use; all of them are allocated."""
        return (self._num_pages - len(self._free)) * self._page_bytes

    def clear(self) -> None:
        """Forget every image."""
        while self._images:
            self._free += self._images.popitem()[1].pages

    def check(self, image: EncodedImage) -> None:
        """Raise RuntimeError where an image of the model does not fit the rows made for it."""
        for ours, theirs in (self._states, image.states), (self._features, image.features):
            if (ours.shape[1], ours.dtype) != (theirs.shape[1], theirs.dtype):
                raise RuntimeError(
                    f"the model encodes images in {theirs.shape[1]} x {theirs.dtype}, its "
                    f"configuration says {ours.shape[1]} x {ours.dtype}: this plugin does not "
                    "know this model"
                )
