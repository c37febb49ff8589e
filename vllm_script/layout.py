"""Where each placeholder of an image comes from: the map from rows to encoder patches.

Found by sending patch numbers instead of features through the model's own merge, so it follows
whatever vLLM does with tiles, unpadding and newlines. Selection and placeholder counts both use it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Layout:
    """The visual tokens of one image, as stock vLLM lays them out in reading order."""

    rows: torch.Tensor
    """[N] int64 on CPU: index of each row's patch in tiles x patches, -1 for a newline row."""

    @property
    def num_placeholders(self) -> int:
        """N, rows with newlines."""
        return len(self.rows)

    @property
    def num_patches(self) -> int:
        """P, rows that are patches."""
        return len(self.candidates)

    @property
    def candidates(self) -> torch.Tensor:
        """[P] int64: patch index of every row that can be kept, in reading order."""
        return self.rows[self.rows >= 0]
