"""Anyres tiles of LLaVA models: which row of the prompt comes from which patch.

The map is found by sending patch numbers instead of features through the model's own merge, so it
follows whatever vLLM does with tiles, unpadding and newlines. That merge is private, and probed:

Upstream: nothing is known that would tell the map. The methods:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/llava_next.py#L365
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/model_executor/models/llava_onevision.py#L607

Remove when: vLLM exposes which row comes from which patch.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from vllm.model_executor.models.llava_next import get_anyres_image_grid_shape

from ..patches.probing import Probes

ANYRES_PROBES: Probes = {
    "vllm.model_executor.models.llava_next:get_anyres_image_grid_shape": frozenset(
        {"image_size", "grid_pinpoints", "patch_size"}
    ),
}
"""Beside a model's merge, which has other parameters in every family."""


class Anyres(NamedTuple):
    """How a model cuts images into tiles."""

    tile_size: int
    """Side of an encoder input, in pixels."""
    patch_size: int
    """Side of a patch, in pixels."""
    pinpoints: tuple[tuple[int, ...], ...]
    """Resolutions that an image may be scaled to, (height, width) in pixels."""

    @classmethod
    def of(cls, hf_config: Any) -> Anyres:
        """Read it from a model's configuration."""
        vision = hf_config.vision_config
        pinpoints = tuple(tuple(size) for size in hf_config.image_grid_pinpoints)
        return cls(vision.image_size, vision.patch_size, pinpoints)

    @property
    def tile_side(self) -> int:
        """Patches on a side of a tile."""
        return self.tile_size // self.patch_size


def merged_patch_numbers(
    merge: Callable[..., torch.Tensor], anyres: Anyres, height: int, width: int, **arguments: Any
) -> torch.Tensor:
    """Return what a model's merge of tiles makes of patch numbers.

    Args:
        merge: the model class's `_merge_image_patch_embeddings`.
        height, width: of the image, in pixels.
        arguments: further ones of `merge`.

    Returns:
        [N] float64: number of the row's patch in tiles x patches, base tile first; -1 for a
        newline. Rows may be mixtures of patches where the model scales tiles down.
    """
    pinpoints = list(map(list, anyres.pinpoints))
    grid = get_anyres_image_grid_shape((height, width), pinpoints, anyres.tile_size)
    num_tiles, num_patches = 1 + grid[0] * grid[1], anyres.tile_side**2
    numbers = torch.arange(num_tiles * num_patches, dtype=torch.float64)
    model = SimpleNamespace(
        config=SimpleNamespace(
            vision_config=SimpleNamespace(
                image_size=anyres.tile_size, patch_size=anyres.patch_size
            ),
            image_grid_pinpoints=pinpoints,
        ),
        image_newline=NEWLINE,
    )
    merged = merge(
        model,
        torch.tensor([height, width]),
        numbers.view(num_tiles, num_patches, 1),
        strategy="spatial_unpad",
        **arguments,
    )
    return merged.flatten()


NEWLINE = torch.tensor([-1.0], dtype=torch.float64)
"""What a newline row is in the place of, among patch numbers."""
