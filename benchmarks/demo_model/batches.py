"""Scenes as tensors for the vision tower: tiles, what their patches show, and texts about them."""

from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from ..scenes.pictures import draw, mask_of_things
from ..scenes.questions import questions_of
from ..scenes.scene import MAX_THINGS, Scene
from ..scenes.tiling import GRID, PATCHES, cut
from .labels import NOTHING, PatchLabels, labels_of
from .text import PAD_ID, caption_of, phrases_of

TEXTS_PER_SCENE = 6


class Pictures(NamedTuple):
    """The T tiles of S scenes; labels of labels.PatchLabels, int64 [T, K] at the kept patches."""

    tiles: torch.Tensor
    """[T, TILE, TILE, 3] uint8."""
    scene: torch.Tensor
    """[T] int64, index of the tile's scene."""
    kept: torch.Tensor
    """[T, K] int64, the patches that the tower sees, ascending; K = PATCHES means all."""
    thing: torch.Tensor
    color: torch.Tensor
    name: torch.Tensor
    horizontal: torch.Tensor
    vertical: torch.Tensor
    centre: torch.Tensor


class Texts(NamedTuple):
    """Texts about S scenes and T tiles, as CLIP token ids padded with PAD_ID."""

    phrases: torch.Tensor
    """[S, TEXTS_PER_SCENE, L] int64: phrases and questions."""
    relevant: torch.Tensor
    """[S, TEXTS_PER_SCENE, MAX_THINGS] bool: the things that a phrase fits."""
    captions: torch.Tensor
    """[T, L] int64: what each tile shows."""


def pictures_of(
    scenes: list[Scene], keep_patches: int, rng: np.random.Generator, blank: bool = False
) -> tuple[Pictures, list[PatchLabels]]:
    """Draw scenes and cut them; keep things and their surroundings first, then random patches.

    `blank` spares the drawing for a stage that looks at the labels alone: no tile has a pixel.
    """
    tiles, labels, owners, kept = [], [], [], []
    for index, scene in enumerate(scenes):
        picture, mask = (None, mask_of_things(scene)) if blank else draw(scene)
        labels.append(labels_of(scene, mask))
        num_tiles = len(labels[-1].thing) // PATCHES
        tiles.append(np.empty((num_tiles, 0), np.uint8) if picture is None else cut(picture))
        owners += [index] * num_tiles
        kept.append(_kept_patches(labels[-1].thing.reshape(-1, PATCHES), keep_patches, rng))
    chosen = np.concatenate(kept)

    def at_kept(field: str) -> torch.Tensor:
        values = np.concatenate([getattr(label, field) for label in labels])
        return torch.from_numpy(np.take_along_axis(values.reshape(-1, PATCHES), chosen, 1))

    pictures = Pictures(
        torch.from_numpy(np.concatenate(tiles)),
        torch.tensor(owners),
        torch.from_numpy(chosen),
        *(at_kept(field) for field in Pictures._fields[3:]),
    )
    return pictures, labels


def texts_of(
    scenes: list[Scene], labels: list[PatchLabels], clip: Tokenizer, rng: np.random.Generator
) -> Texts:
    """Choose texts about each scene, half of them questions, and say what each tile shows."""
    phrases, captions = [], []
    relevant = np.zeros((len(scenes), TEXTS_PER_SCENE, MAX_THINGS), bool)
    for index, (scene, label) in enumerate(zip(scenes, labels, strict=True)):
        questions = questions_of(scene)
        half = TEXTS_PER_SCENE // 2
        asked = [questions[i] for i in rng.permutation(len(questions))[:half]]
        said = [(question.text, question.relevant) for question in asked]
        rest = list(phrases_of(scene, rng))
        said += [rest[i] for i in rng.permutation(len(rest))[: TEXTS_PER_SCENE - len(said)]]
        for place, (text, fits) in enumerate(said):
            phrases.append(text)
            relevant[index, place, list(fits)] = True
        for shown in label.thing.reshape(-1, PATCHES):
            captions.append(caption_of([scene.things[i] for i in np.unique(shown[shown >= 0])]))
    ids = _padded([clip.encode(text).ids for text in phrases])
    return Texts(
        ids.reshape(len(scenes), TEXTS_PER_SCENE, -1),
        torch.from_numpy(relevant),
        _padded([clip.encode(caption).ids for caption in captions]),
    )


def _kept_patches(thing: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return [tiles, count] patch indices, ascending; `thing` is [tiles, PATCHES]."""
    if count >= PATCHES:
        return np.tile(np.arange(PATCHES), (len(thing), 1))
    shown = np.pad((thing != NOTHING).reshape(-1, GRID, GRID), ((0, 0), (1, 1), (1, 1)))
    near = np.zeros((len(thing), GRID, GRID), bool)
    for y in range(3):
        for x in range(3):
            near |= shown[:, y : y + GRID, x : x + GRID]
    urgency = rng.random(thing.shape) + near.reshape(thing.shape)
    return np.sort(np.argpartition(-urgency, count, axis=1)[:, :count], axis=1)


def _padded(sequences: list[list[int]]) -> torch.Tensor:
    """Return [len(sequences), longest] int64, PAD_ID after the end."""
    table = torch.full((len(sequences), max(map(len, sequences))), PAD_ID)
    for row, ids in zip(table, sequences, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return table
