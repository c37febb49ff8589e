"""A DINOv2 as the vision tower of an InternVL.

Both are one network under two sets of names: a convolution of patches, a class token, a table of
positions, and layers with a norm before and a scale behind attention and MLP. DINOv2's last norm is
left out; InternVL's connector begins with one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import Dinov2Config

POSITIONS = "embeddings.position_embeddings"
NAMES = {
    r"norm1": "layernorm_before",
    r"norm2": "layernorm_after",
    r"attention\.attention\.query": "attention.q_proj",
    r"attention\.attention\.key": "attention.k_proj",
    r"attention\.attention\.value": "attention.v_proj",
    r"attention\.output\.dense": "attention.projection_layer",
    r"layer_scale(\d)\.lambda1": r"lambda_\1",
}
"""DINOv2's names in published checkpoints -> InternVL's, where they differ."""


@dataclass(frozen=True)
class Tower:
    """Arguments of transformers' InternVLVisionConfig, and the weights that go with them."""

    config: dict[str, Any]
    weights: dict[str, torch.Tensor]


def read_tower(folder: Path, layers: int, side: int) -> Tower:
    """Read the first layers of a DINOv2, for pictures of `side` times `side` pixels.

    Its table of positions is interpolated to that many patches once and for all, by the formula
    that transformers' Dinov2Model uses at every call.

    Args:
        folder: of a Dinov2Model, its weights in model.safetensors.

    Raises:
        ValueError: it is another model, has fewer layers, or other patches.
        OSError: a file is not there.
    """
    config: Any = Dinov2Config.from_pretrained(folder)
    if config.model_type != "dinov2" or config.use_swiglu_ffn:
        raise ValueError(f"{folder} is no DINOv2 with ordinary MLPs")
    if not 0 < layers <= config.num_hidden_layers:
        raise ValueError(f"--layers must be 1 to {config.num_hidden_layers}, got {layers}")
    if side % config.patch_size:
        raise ValueError(f"{side} pixels are no multiple of patches of {config.patch_size}")
    weights = {}
    for name, value in load_file(folder / "model.safetensors").items():
        layer = re.match(r"encoder\.layer\.(\d+)\.", name)
        last_norm, masks = name.startswith("layernorm."), name.endswith("mask_token")
        if last_norm or masks or (layer and int(layer.group(1)) >= layers):
            continue
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        weights[name] = value.float()
    weights[POSITIONS] = _interpolated(weights[POSITIONS], side // config.patch_size)
    settings = dict(
        hidden_size=config.hidden_size,
        intermediate_size=config.hidden_size * config.mlp_ratio,
        num_hidden_layers=layers,
        num_attention_heads=config.num_attention_heads,
        hidden_act=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        attention_bias=config.qkv_bias,
        image_size=[side, side],
        patch_size=[config.patch_size, config.patch_size],
    )
    return Tower(settings, weights)


def _interpolated(table: torch.Tensor, grid: int) -> torch.Tensor:
    """A table of positions [1, 1 + N, D], class token first, for grid times grid patches."""
    old = round((table.shape[1] - 1) ** 0.5)
    patches = table[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)  # [1, D, old, old]
    if old != grid:
        patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)
