"""What a selection reads of the tokens of an image: their cosines with each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from .._triton import Backend

Rows = torch.Tensor | slice
"""Which rows of an image."""


class Similarity(ABC):
    """Cosines of the tokens of each of some images with each other.

    A row without length has cosine 0 with everything, itself included.
    """

    def __init__(self, images: Sequence[torch.Tensor], backend: Backend) -> None:
        self.lengths = [len(image) for image in images]
        """Tokens of each image."""
        self.backend: Backend = backend
        """That of `cosine_similarity`, and of the ops that read this."""
        self.device = images[0].device

    @abstractmethod
    def block(self, image: int, rows: Rows, columns: Rows) -> torch.Tensor:
        """Cosines [rows, columns] float32 of some tokens of an image with others, to be read only.

        Where rows and columns are one object, of these tokens with each other.
        """

    @abstractmethod
    def has_length(self, image: int) -> torch.Tensor:
        """Whether each token of an image is a row with a length, [N] bool."""
