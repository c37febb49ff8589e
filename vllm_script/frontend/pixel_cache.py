"""The front end's memory of images: a known one is not scaled, cut and normalised again.

In the memory of an API process, in use only as far as it is filled. Requests are processed in
threads, so every access takes a lock; two that miss the same image at once both process it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from cachetools import LRUCache

PixelFields = Mapping[str, Any]
"""What the Hugging Face processor makes of one image or video: `pixel_values`, and what else the
model is sent, nearly all of it tensors. Shared between requests: not to be written."""


class PixelCache:
    """Processed images by key. The least recently used go first; one too large is not kept.

    Args:
        capacity_gb: size in GiB; 0 keeps nothing.
    """

    def __init__(self, capacity_gb: float) -> None:
        self._images: LRUCache[bytes, PixelFields] = LRUCache(capacity_gb * 2**30, _num_bytes)
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def get(self, key: bytes) -> PixelFields | None:
        """The fields of the image of that key; None where it is not kept."""
        with self._lock:
            image = self._images.get(key)
            self.hits += image is not None
            self.misses += image is None
        return image

    def put(self, key: bytes, image: PixelFields) -> None:
        """Keep an image; its tensors must not be views of larger ones."""
        with self._lock:
            if _num_bytes(image) <= self._images.maxsize:
                self._images[key] = image

    @property
    def num_bytes(self) -> int:
        """Memory in use."""
        return int(self._images.currsize)

    def clear(self) -> None:
        """Forget every image."""
        with self._lock:
            self._images.clear()


def _num_bytes(image: PixelFields) -> int:
    return sum(value.nbytes for value in image.values() if isinstance(value, torch.Tensor))
