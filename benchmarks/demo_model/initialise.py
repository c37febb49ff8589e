"""Starting weights that spare the tower and the language model their slowest discoveries.

Tower: patches enter as their cosine transform, positions as sines and cosines in dimensions of
their own, and four heads of each layer look at the four neighbours, so that shapes form at once.
Language model: attention starts as "find the token that holds my word and copy it".
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..scenes.tiling import GRID, PATCH
from .model import LM_HEADS, LM_WIDTH, TOWER_HEADS, TOWER_WIDTH, Demo

FREQUENCIES = 8
POSITION_WIDTH = 4 * FREQUENCIES
"""Sine and cosine of each frequency, across and down: as wide as one head of the tower."""
NEIGHBOURS = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""Steps across and down."""
LOOK_GAIN = 0.9
PATCH_GAIN, BRIGHTNESS_GAIN, POSITION_GAIN = 2.0, 0.5, 0.7
TOWER_STD = 0.04
MATCH_GAIN, VALUE_GAIN, OUTPUT_GAIN, MLP_GAIN = 0.7, 0.7, 1.0, 0.1
FINAL_GAIN = 0.2
"""Embeddings are long and serve as the output layer too: without it the first losses are absurd."""
SHARED_PART = 0.25
"""Share of an embedding's square that all words have in common."""
LOOK_BACK_PAIRS, LOOK_BACK_GAIN = slice(3, 8), 0.35
"""Rotary pairs that make a head prefer about the last eight tokens."""
FAST_PAIRS, FAST_GAIN = 12, 0.1
"""Rotary pairs that turn by more than a radian between a picture's rows, and their share."""
WORD_NORM = 4.0


@torch.no_grad()
def initialise(demo: Demo, seed: int) -> None:
    """Fill all weights of a model that need more care than transformers' defaults."""
    torch.manual_seed(seed)
    _initialise_tower(demo.tower)
    _initialise_language(demo.language)
    nn.init.normal_(demo.llava.model.image_newline, std=WORD_NORM / LM_WIDTH**0.5)
    for layer in (demo.projector.linear_1, demo.projector.linear_2):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def position_code() -> torch.Tensor:
    """Return [GRID * GRID, POSITION_WIDTH] float32: (cos, sin) pairs, across first, then down."""
    omega = math.pi / 2 * 2.0 ** (-torch.arange(FREQUENCIES) / 2)
    place = torch.arange(GRID, dtype=torch.float32)
    waves = torch.stack([(place[:, None] * omega).cos(), (place[:, None] * omega).sin()], -1)
    waves = waves.flatten(1)  # [GRID, 2 * FREQUENCIES]
    across = waves[None, :, :].expand(GRID, GRID, -1)
    down = waves[:, None, :].expand(GRID, GRID, -1)
    return torch.cat([across, down], -1).flatten(0, 1)


def cosine_basis(num_filters: int) -> torch.Tensor:
    """Return [num_filters, 3, PATCH, PATCH]: low waves first, of luma, then of two chromas."""
    place = (torch.arange(PATCH) + 0.5) * math.pi / PATCH
    waves = (torch.arange(PATCH)[:, None] * place).cos()
    waves = waves / waves.norm(dim=1, keepdim=True)
    planes = torch.einsum("ay,bx->abyx", waves, waves)
    order = sorted((a + b, a, b) for a in range(PATCH) for b in range(PATCH))
    planes = torch.stack([planes[a, b] for _, a, b in order])  # [PATCH * PATCH, PATCH, PATCH]
    mixes = torch.tensor([[1.0, 1, 1], [1, -1, 0], [0.5, 0.5, -1]])
    mixes = mixes / mixes.norm(dim=1, keepdim=True)
    num_luma = PATCH * PATCH
    num_chroma = (num_filters - num_luma) // 2
    filters = [
        torch.einsum("c,fyx->fcyx", mix, planes[:count])
        for mix, count in zip(mixes, (num_luma, num_chroma, num_chroma), strict=True)
    ]
    return torch.cat(filters)


def _initialise_tower(tower: Any) -> None:
    embeddings = tower.embeddings
    basis = cosine_basis(TOWER_WIDTH - POSITION_WIDTH)
    embeddings.patch_embedding.weight.zero_()
    embeddings.patch_embedding.weight[: len(basis)] = PATCH_GAIN * basis
    embeddings.patch_embedding.weight[0] = BRIGHTNESS_GAIN * basis[0]
    table = embeddings.position_embedding.weight
    nn.init.normal_(table, std=0.02)
    table[1:, TOWER_WIDTH - POSITION_WIDTH :] = POSITION_GAIN * position_code()
    nn.init.normal_(embeddings.class_embedding, std=0.5)
    for layer in tower.encoder.layers:
        attention = layer.self_attn
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, layer.mlp.fc1):
            nn.init.normal_(linear.weight, std=TOWER_STD)
            nn.init.zeros_(linear.bias)
        for linear in (attention.out_proj, layer.mlp.fc2):
            nn.init.normal_(linear.weight, std=TOWER_STD / math.sqrt(2))
            nn.init.zeros_(linear.bias)
        _look_at_neighbours(attention)


def _look_at_neighbours(attention: Any) -> None:
    """Make the first heads match a patch's position, moved by a step, with other positions."""
    width = TOWER_WIDTH // TOWER_HEADS
    start = TOWER_WIDTH - POSITION_WIDTH
    omega = math.pi / 2 * 2.0 ** (-torch.arange(FREQUENCIES) / 2)
    for head, steps in enumerate(NEIGHBOURS):
        rows = slice(head * width, head * width + POSITION_WIDTH)
        turns = torch.cat([step * omega for step in steps])
        blocks = [
            torch.tensor([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
            for t in turns.tolist()
        ]
        attention.q_proj.weight[rows, start:] += LOOK_GAIN * torch.block_diag(*blocks)
        attention.k_proj.weight[rows, start:] += LOOK_GAIN * torch.eye(POSITION_WIDTH)


def _initialise_language(language: Any) -> None:
    """Make a word of the question copy the rows that hold it, and later tokens copy that word.

    Every embedding shares one direction. Matching ignores it; the last head of each layer but the
    first reads nothing else, so that only distance counts there: it looks at the last few tokens.
    """
    shared = F.normalize(torch.randn(LM_WIDTH), dim=0)
    words = torch.randn(language.embed_tokens.weight.shape) * WORD_NORM / LM_WIDTH**0.5
    words = words - (words @ shared)[:, None] * shared
    words = (1 - SHARED_PART) ** 0.5 * words + SHARED_PART**0.5 * WORD_NORM * shared
    language.embed_tokens.weight.copy_(words)
    unshared = torch.eye(LM_WIDTH) - shared[:, None] * shared
    for number, layer in enumerate(language.layers):
        attention = layer.self_attn
        match, value = (nn.init.orthogonal_(torch.empty(LM_WIDTH, LM_WIDTH)) for _ in range(2))
        match = MATCH_GAIN * _slow_rotations() * match @ unshared
        if number > 0:
            _look_back(match, shared)
        attention.q_proj.weight.copy_(match)
        attention.k_proj.weight.copy_(match)
        attention.v_proj.weight.copy_(VALUE_GAIN * value)
        attention.o_proj.weight.copy_(OUTPUT_GAIN * value.T)
        for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
            nn.init.normal_(linear.weight, std=1 / LM_WIDTH**0.5)
        nn.init.normal_(layer.mlp.down_proj.weight, std=MLP_GAIN / LM_WIDTH**0.5)
    nn.init.constant_(language.norm.weight, FINAL_GAIN)


def _slow_rotations() -> torch.Tensor:
    """Return [LM_WIDTH, 1] gains of query and key rows: words must match at any distance."""
    pairs = LM_WIDTH // LM_HEADS // 2
    gain = torch.full((pairs,), (pairs / (pairs - FAST_PAIRS)) ** 0.5)
    gain[:FAST_PAIRS] = FAST_GAIN
    # A head's rotary pair i is its dimensions i and i + pairs.
    return gain.repeat(2 * LM_HEADS)[:, None]


def _look_back(match: torch.Tensor, shared: torch.Tensor) -> None:
    """Make the last head of `match`, [LM_WIDTH, LM_WIDTH], agree with whatever came just before."""
    head = match[-(LM_WIDTH // LM_HEADS) :]
    head *= FAST_GAIN
    head[LOOK_BACK_PAIRS] += LOOK_BACK_GAIN * shared
