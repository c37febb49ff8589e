"""The forward passes of training: the modules of transformers' models, called piece by piece.

Differs from the models' own forward in three ways that change no number (test_export.py): all
tiles of a batch go through the tower at once, layers after FEATURE_LAYER run only for CLIP, and
branches share their prefix.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..scenes.tiling import PATCHES
from .batches import Pictures
from .model import FEATURE_LAYER, Demo
from .prompts import PADDING, Prompts


def patch_states(demo: Demo, pictures: Pictures) -> torch.Tensor:
    """Return the tower's states at FEATURE_LAYER, [T, 1 + K, TOWER_WIDTH], class token first."""
    pixels = pictures.tiles.permute(0, 3, 1, 2).float() / 127.5 - 1
    states = demo.tower.embeddings(pixels)
    if pictures.kept.shape[1] < PATCHES:
        chosen = F.pad(pictures.kept + 1, (1, 0))  # the class token stays
        states = states.gather(1, chosen[..., None].expand(-1, -1, states.shape[-1]))
    states = demo.tower.pre_layrnorm(states)
    return _through(demo.tower.encoder.layers[: FEATURE_LAYER + 1], states)


def tile_embeddings(demo: Demo, states: torch.Tensor) -> torch.Tensor:
    """Return CLIP's image embeddings, [T, JOINT_WIDTH], unit length."""
    states = _through(demo.tower.encoder.layers[FEATURE_LAYER + 1 :], states)
    pooled = demo.tower.post_layernorm(states[:, 0])
    return F.normalize(demo.clip.visual_projection(pooled).float(), dim=-1)


def patch_embeddings(demo: Demo, states: torch.Tensor) -> torch.Tensor:
    """Return what `clip` relevance compares with texts: [T, K, JOINT_WIDTH], unit length."""
    patches = demo.tower.post_layernorm(states[:, 1:])
    return F.normalize(demo.clip.visual_projection(patches).float(), dim=-1)


def text_embeddings(demo: Demo, ids: torch.Tensor) -> torch.Tensor:
    """Return CLIP's text embeddings of [..., L] token ids, [..., JOINT_WIDTH], unit length."""
    pooled = demo.clip.text_model(input_ids=ids.flatten(0, -2)).pooler_output
    embedded = F.normalize(demo.clip.text_projection(pooled).float(), dim=-1)
    return embedded.reshape(*ids.shape[:-1], -1)


def visual_rows(demo: Demo, states: torch.Tensor) -> torch.Tensor:
    """Return the projected patches of all tiles and the newline, [T * PATCHES + 1, LM_WIDTH]."""
    patches = demo.projector(states[:, 1:]).flatten(0, 1)
    return torch.cat([patches, demo.llava.model.image_newline[None].to(patches.dtype)])


def answer_logits(
    demo: Demo, prompts: Prompts, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [A, VOCAB_SIZE] float32 and targets [A] of all places with a target.

    Args:
        prompts: on the model's device.
        rows: [R, LM_WIDTH], what `prompts.row` points into.
    """
    words = demo.language.embed_tokens(prompts.token)
    seen = rows[prompts.row.clamp(min=0)].to(words.dtype)
    embeddings = torch.where((prompts.row >= 0)[..., None], seen, words)
    states = demo.language(
        inputs_embeds=embeddings,
        attention_mask=_mask(demo, prompts.branch, embeddings.dtype),
        position_ids=prompts.position,
        use_cache=False,
    ).last_hidden_state
    asked = states.flatten(0, 1)[prompts.asked]
    return F.linear(asked, demo.word_embeddings).float(), prompts.target.flatten()[prompts.asked]


def _through(layers: nn.ModuleList, states: torch.Tensor) -> torch.Tensor:
    for layer in layers:
        output: Any = layer(states, None)
        states = output[0] if isinstance(output, tuple) else output  # transformers 4 has a tuple
    return states


def _mask(demo: Demo, branch: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return [S, 1, L, L]: everyone sees the prefix and its own branch, up to itself."""
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    own = branch[:, :, None] == branch[:, None, :]
    prefix = (branch == 0)[:, None, :] & (branch != PADDING)[:, :, None]
    allowed = (causal & (own | prefix))[:, None]
    if demo.llava.config._attn_implementation == "sdpa":
        return allowed
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
