"""Prompts for the language model: one picture, then several questions that do not see each other.

A branch is a question with its answer, now and then followed by another one as in a chat. All
branches of a scene continue the same prefix (text before the picture, visual rows) at the same
position, so a picture is paid for once.
"""

from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer

from ..scenes.questions import Question
from ..scenes.scene import Scene
from ..scenes.tiling import NEWLINE, PATCHES, rows_of
from ..scenes.words import TYPES
from .labels import NOTHING, PatchLabels
from .text import IMAGE_ID, OPENING, PAD_ID, turn_ids

NO_TARGET = -100
PADDING = -1
FOLLOW_UP_SHARE = 0.1
"""How often a question follows another in its branch instead of opening a new one."""


class Keep(NamedTuple):
    """Which visual rows of a picture the prompt holds; shares in [0, 1]."""

    things: float = 1.0
    background: float = 1.0
    centres: float = 1.0
    """Share of the marked patches, one a thing in each of its two tiles; counting needs them."""
    newlines: bool = True
    spread: bool = False
    """True leaves the positions of dropped rows empty; False closes the gaps as pruning does."""


EVERYTHING = Keep()


class Prompts(NamedTuple):
    """S prompts of length L, all int64 [S, L] but the last three."""

    token: torch.Tensor
    """Token id; IMAGE_ID on visual rows."""
    row: torch.Tensor
    """Patch index over all tiles of the batch, their number for a newline, NEWLINE on text."""
    branch: torch.Tensor
    """0 on the prefix, 1.. on the branches, PADDING after the end."""
    position: torch.Tensor
    target: torch.Tensor
    """Token to predict from here, NO_TARGET where the model is not asked."""
    asked: torch.Tensor
    """[A] int64: where a target is, counted over the whole table."""
    question: torch.Tensor
    """[A] int64: which question of its scene a target belongs to."""
    kind: torch.Tensor
    """[S, questions] index into words.TYPES, PADDING where a scene has fewer questions."""


def prompts_of(
    scenes: list[Scene],
    labels: list[PatchLabels],
    questions: list[list[Question]],
    tokenizer: Tokenizer,
    keep: Keep,
    rng: np.random.Generator,
) -> Prompts:
    """Lay out the prompts of a batch; tiles are counted in the order of the scenes."""
    num_patches = sum(len(label.thing) for label in labels)
    before = tokenizer.encode(OPENING).ids
    columns = []
    first_patch = 0
    for scene, label, asked in zip(scenes, labels, questions, strict=True):
        rows = rows_of(scene.height, scene.width)
        places = np.flatnonzero(_kept_rows(rows, label, keep, rng))
        kept = np.where(rows[places] == NEWLINE, num_patches, rows[places] + first_patch)
        places = places if keep.spread else np.arange(len(places))
        chained = rng.random(len(asked)) < FOLLOW_UP_SHARE
        columns.append(_columns(before, kept, places, asked, chained, tokenizer))
        first_patch += len(label.thing)
    length = max(column.shape[1] for column in columns)
    table = np.empty((len(columns), 6, length), np.int64)
    table[:] = np.array([PAD_ID, NEWLINE, PADDING, 0, NO_TARGET, PADDING])[None, :, None]
    for line, column in zip(table, columns, strict=True):
        line[:, : column.shape[1]] = column
    kind = np.full((len(scenes), max(map(len, questions))), PADDING)
    for index, asked in enumerate(questions):
        kind[index, : len(asked)] = [TYPES.index(question.kind) for question in asked]
    *fields, question = table.swapaxes(0, 1)
    places = np.flatnonzero(fields[-1] != NO_TARGET)
    parts = (*fields, places, question.ravel()[places], kind)
    return Prompts(*(torch.from_numpy(part) for part in parts))


def _kept_rows(
    rows: np.ndarray, label: PatchLabels, keep: Keep, rng: np.random.Generator
) -> np.ndarray:
    """Return [rows] bool."""
    newline = rows == NEWLINE
    share = np.where(label.thing[rows] == NOTHING, keep.background, keep.things)
    share = np.where(label.centre[rows] == 1, keep.centres, share)
    kept = np.where(newline, keep.newlines, rng.random(len(rows)) < share)
    if not kept.any():
        kept[rng.integers(PATCHES)] = True
    return kept


def _columns(
    before: list[int],
    rows: np.ndarray,
    places: np.ndarray,
    asked: list[Question],
    chained: np.ndarray,
    tokenizer: Tokenizer,
) -> np.ndarray:
    """Return [6, length] int64: token, row, branch, position, target, question of one prompt."""
    start = len(before)
    blocks = [_block(before, 0, 0), _block([IMAGE_ID] * len(rows), 0, start + places, row=rows)]
    first_position = start + int(places[-1]) + 1
    branch = position = 0
    for index, question in enumerate(asked):
        is_first = index == 0 or not chained[index]
        if is_first:
            branch, position = branch + 1, first_position
        prompt, answer = turn_ids(tokenizer, question.text, question.answer, is_first)
        ids = prompt + answer
        target = np.full(len(ids), NO_TARGET)
        target[len(prompt) - 1 : -1] = answer
        blocks.append(_block(ids, branch, position, target=target, question=index))
        position += len(ids)
    return np.concatenate(blocks, axis=1)


def _block(
    ids: list[int],
    branch: int,
    position: np.ndarray | int,
    row: np.ndarray | int = NEWLINE,
    target: np.ndarray | int = NO_TARGET,
    question: int = PADDING,
) -> np.ndarray:
    """Return [6, len(ids)] int64; a single position is that of the first id."""
    if isinstance(position, int):
        position = position + np.arange(len(ids))
    parts = (np.asarray(ids), row, branch, position, target, question)
    return np.stack([np.broadcast_to(part, len(ids)) for part in parts]).astype(np.int64)
