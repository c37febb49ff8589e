"""Questions about photographs as tensors, made by the processor that vLLM uses.

Sample i of a stage is the same whoever makes it, and when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch.utils.data import Dataset

from . import questions
from .photographs import Photograph, Split
from .questions import KINDS, SAID, Question

END = "<|im_end|>"
IGNORED = -100
"""Label of a token that is no part of an answer."""


class Samples(NamedTuple):
    """B questions with their answers, L tokens each, padded at the end."""

    ids: torch.Tensor
    """[B, L] int64."""
    mask: torch.Tensor
    """[B, L] int64, 1 for a token, 0 for padding."""
    labels: torch.Tensor
    """[B, L] int64: the ids of the answer and its end, IGNORED elsewhere."""
    kind: torch.Tensor
    """[B] int64, index into KINDS."""
    pixels: torch.Tensor
    """[B, 3, S, S] float32, normalised."""


class Pool:
    """The photographs of a split, and what is asked about them."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.often: Counter = Counter()
        """How often each thing is seen or named in all photographs."""
        for photograph in split.masked:
            self.often.update(sorted(questions.names_of(photograph)))
        things = sorted(self.often)
        for photograph in split.captioned:
            said = questions.named(photograph, things)
            self.often.update(name for name, times in said.items() if times >= SAID)
        self.answerable = {
            "count": _answerable(split.masked, questions.countings),
            "side": _answerable(split.masked, questions.sides),
        }
        """Kind -> photographs whose masks answer such questions, and those questions."""

    def draw(self, kinds: Mapping[str, float], rng: Random) -> tuple[Photograph, Question]:
        """Draw a question, and the photograph that it is about.

        Args:
            kinds: how often each of KINDS is asked. Half of the questions about existence are
                answered by captions.
        """
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        if kind in ("caption", "match"):
            photograph = rng.choice(self.split.captioned)
            if kind == "caption":
                return photograph, questions.caption(photograph, rng)
            return photograph, questions.match(photograph, self.split.captioned, rng)
        if kind == "existence":
            return self._existence(rng)
        photograph, asked = rng.choice(self.answerable[kind])
        return photograph, rng.choice(asked)

    def _existence(self, rng: Random) -> tuple[Photograph, Question]:
        if rng.random() < 0.5:
            photograph = rng.choice(self.split.masked)
            seen = questions.names_of(photograph)
            return photograph, questions.either(seen, (), self.often, rng)
        photograph = rng.choice(self.split.captioned)
        said = questions.named(photograph, self.often)
        seen = {name for name, times in said.items() if times >= SAID}
        return photograph, questions.either(seen, said.keys(), self.often, rng)


class Source(Dataset):
    """The batches of a stage by number."""

    def __init__(
        self,
        pool: Pool,
        kinds: Mapping[str, float],
        processor: Any,
        batch: int,
        seed: str,
    ) -> None:
        """`batch`: samples of each; `seed`: other ones draw other questions."""
        self.pool, self.kinds, self.processor = pool, kinds, processor
        self.batch, self.seed = batch, seed

    def __getitem__(self, number: int) -> tuple[Samples]:
        rng = Random(f"{self.seed} {number}")
        drawn = [self.pool.draw(self.kinds, rng) for _ in range(self.batch)]
        return (samples_of(drawn, self.processor),)


def samples_of(asked: Sequence[tuple[Photograph, Question]], processor: Any) -> Samples:
    """Read the photographs, and write the questions as a chat has them."""
    pictures = [_read(photograph) for photograph, _ in asked]
    prompts = [prompt_of(question.text, processor.tokenizer) for _, question in asked]
    inputs = processor(images=pictures, text=prompts)
    rows, labels = [], []
    for prompt, (_, question) in zip(inputs["input_ids"], asked, strict=True):
        answer = processor.tokenizer(question.answer + END, add_special_tokens=False).input_ids
        rows.append([*prompt, *answer])
        labels.append([IGNORED] * len(prompt) + answer)
    return Samples(
        ids=_padded(rows, processor.tokenizer.pad_token_id),
        mask=_padded([[1] * len(row) for row in rows], 0),
        labels=_padded(labels, IGNORED),
        kind=torch.tensor([KINDS.index(question.kind) for _, question in asked]),
        pixels=torch.stack(list(inputs["pixel_values"])),
    )


def prompt_of(question: str, tokenizer: Any) -> str:
    """A chat about one picture, up to where the answer begins."""
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    prompt: str = tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    return prompt


def _answerable(
    photographs: Sequence[Photograph], ask: Callable[[Photograph], list[Question]]
) -> list[tuple[Photograph, list[Question]]]:
    """The photographs about which that can be asked, with the questions."""
    asked = [(photograph, ask(photograph)) for photograph in photographs]
    return [(photograph, found) for photograph, found in asked if found]


def _read(photograph: Photograph) -> Image.Image:
    with Image.open(photograph.path) as picture:
        return picture.convert("RGB")


def _padded(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])
