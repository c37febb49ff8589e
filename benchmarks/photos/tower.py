"""A vision tower: a square picture in, one row for each of its patches out."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn


class Tower(NamedTuple):
    """What turns pictures into visual tokens."""

    size: int
    """Side of the square, in pixels, into which a picture is squeezed."""

    encode: Callable[[torch.Tensor], torch.Tensor]
    """[B, 3, size, size] float32 in [0, 1] -> [B, N, D] tokens of a square grid, row by row."""

    blocks: nn.ModuleList | None = None
    """The layers of a transformer that transformers loads, one after the other; each takes states
    [B, L, D], of which the last rows are the patches."""

    @torch.inference_mode()
    def tokens_of(self, picture: Image.Image) -> torch.Tensor:
        """Visual tokens [N, D] float32 of one picture.

        Raises:
            ValueError: the tower gives no square grid of tokens.
        """
        tokens = self.encode(self.pixels_of(picture)[None])[0].float().contiguous()
        if math.isqrt(len(tokens)) ** 2 != len(tokens):
            raise ValueError(f"the tower must give a square grid of tokens, got {len(tokens)}")
        return tokens

    def pixels_of(self, picture: Image.Image) -> torch.Tensor:
        """A picture as the tower sees it: [3, size, size] in [0, 1]."""
        squeezed = picture.convert("RGB").resize((self.size,) * 2, Image.Resampling.BICUBIC)
        return torch.tensor(np.asarray(squeezed)).permute(2, 0, 1) / 255


def load_tower(name: str, layer: int | None = None, size: int | None = None) -> Tower:
    """Load a tower.

    Args:
        name: folder or repository that transformers' AutoModel loads, with a
            preprocessor_config.json; or `module:function` for any other. That function is called
            with `layer` and `size` and returns a Tower.
        layer: the layer whose output is read, as an index into transformers' hidden states; None:
            the last but one, as LLaVA does. -1 is what the tower itself calls its last state.
        size: side of its pictures in pixels; None: the one that it was trained with.

    Raises:
        ValueError: there is no such tower or layer, or it is not one of patches.
    """
    if ":" in name:
        module, _, function = name.partition(":")
        try:
            make: Callable[[int | None, int | None], Tower] = getattr(
                importlib.import_module(module), function
            )
        except (ImportError, AttributeError) as error:
            raise ValueError(f"--tower {name} cannot be imported: {error}") from None
        return make(layer, size)
    return _transformers_tower(name, -2 if layer is None else layer, size)


def _transformers_tower(name: str, layer: int, size: int | None) -> Tower:
    from transformers import AutoImageProcessor, AutoModel

    try:
        processor = AutoImageProcessor.from_pretrained(name)
        whole = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--tower {name} cannot be loaded by transformers: {reason}") from None
    config = getattr(whole.config, "vision_config", whole.config)
    if not isinstance(patch := getattr(config, "patch_size", None), int):
        raise ValueError(f"--tower {name} is a {config.model_type}, which has no patches")
    if not -config.num_hidden_layers <= layer <= config.num_hidden_layers:
        raise ValueError(f"--layer {layer} is none of the {config.num_hidden_layers} of {name}")
    model = getattr(whole, "vision_model", whole)
    side = config.image_size if size is None else size
    if side % patch:
        raise ValueError(f"--size {side} is no multiple of the tower's patches of {patch} pixels")
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_mean, processor.image_std)
    )
    # DINOv2 interpolates its positions by itself.
    options: dict[str, Any] = {"output_hidden_states": True}
    if side != config.image_size and config.model_type != "dinov2":
        options["interpolate_pos_encoding"] = True

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        states = model((pixels - mean) / std, **options)
        rows = states.last_hidden_state if layer == -1 else states.hidden_states[layer]
        # What stands before the patches is no patch.
        first = states.hidden_states[0].shape[1] - (side // patch) ** 2
        patches: torch.Tensor = rows[:, first:]
        return patches

    depth = config.num_hidden_layers
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    return Tower(side, encode, blocks)
