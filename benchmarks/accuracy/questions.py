"""The questions: held-out ones about synthetic scenes, or a folder of the user's own."""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ..scenes.held_out import held_out
from ..scenes.pictures import draw
from ..scenes.questions import Question, questions_of

FILE = "questions.jsonl"
DEFAULT_MEDIA = {"image": "image/png", "video": "video/mp4"}
"""Media types of files whose names do not say."""
ABOUT_ONE = ("color", "shape", "position", "digit")
"""Kinds of questions that are about one thing of a scene; the others are about all of it."""


@dataclass(frozen=True)
class Item:
    """One question about one picture or video."""

    id: str
    question: str
    answers: tuple[str, ...]
    """Accepted answers."""
    kind: str
    """What the accuracy is broken down by."""
    picture: bytes | Path
    """A PNG, or a file that is read when it is asked about; a folder has the frames of a video."""
    modality: str = "image"
    """image or video."""
    rule: str = "exact"
    """By which its answer is scored, one of scoring.RULES."""
    earlier: tuple[tuple[str, str], ...] = ()
    """(question, right answer) of the turns before it, for the follow-up of a chat."""

    @cached_property
    def part(self) -> dict[str, Any]:
        """The picture or video as a request carries it."""
        kind = f"{self.modality}_url"
        return {"type": kind, kind: {"url": self._data_url()}}

    @property
    def request(self) -> dict[str, Any]:
        """Body of the chat request that asks it, the earlier turns before it."""
        texts = [text for turn in self.earlier for text in turn] + [self.question]
        messages: list[dict[str, Any]] = [
            {"role": ("user", "assistant")[place % 2], "content": [{"type": "text", "text": text}]}
            for place, text in enumerate(texts)
        ]
        messages[0]["content"].insert(0, self.part)
        return {"messages": messages}

    def _data_url(self) -> str:
        if isinstance(self.picture, bytes):
            files, media = [self.picture], "image/png"
        elif self.picture.is_dir():
            files = [path.read_bytes() for path in sorted(self.picture.iterdir())]
            media = "video/jpeg"  # vLLM's name for frames, in whichever format
        else:
            files = [self.picture.read_bytes()]
            media = mimetypes.guess_type(self.picture.name)[0] or DEFAULT_MEDIA[self.modality]
        encoded = ",".join(base64.b64encode(data).decode() for data in files)
        return f"data:{media};base64,{encoded}"


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Whether it equals an accepted answer but for case, articles and punctuation."""
    return normalise(answer) in {normalise(text) for text in accepted}


def normalise(text: str) -> str:
    """Lower case, without articles, punctuation at the ends of words, and extra spaces."""
    words = [word.strip(string.punctuation) for word in text.lower().split()]
    return re.sub(r"\b(a|an|the)\b", " ", " ".join(words)).strip()


def demo_questions(split: str, num_questions: int, earlier: int = 0) -> Iterator[Item]:
    """Yield held-out questions of script-demo, or follow-ups to others about the same scene.

    Follow-ups are of three kinds: a question about one thing after some about that thing, the same
    question after some about other things, and a question about the whole scene (a count, or
    whether something is there) after some about single things.

    Args:
        split: dev or test.
        num_questions: scenes that are drawn, one question each.
        earlier: questions that are asked and answered before each one. Where a scene has not so
            many of a kind, that follow-up is left out.
    """
    for index, (scene, question) in enumerate(held_out(split, num_questions)):
        png = io.BytesIO()
        Image.fromarray(draw(scene)[0]).save(png, "PNG")
        name, answers, picture = f"{split}-{index}", (question.answer,), png.getvalue()
        if not earlier:
            yield Item(name, question.text, answers, question.kind, picture)
            continue
        for kind, others in _asked_before(question, questions_of(scene)).items():
            turns = tuple((other.text, other.answer) for other in others[:earlier])
            if len(turns) == earlier:
                follow_up = f"{name} {kind}"
                yield Item(follow_up, question.text, answers, kind, picture, earlier=turns)


def _asked_before(question: Question, known: Sequence[Question]) -> dict[str, list[Question]]:
    """What a question can follow, by the kind of follow-up that it then is."""
    single = [other for other in known if other.kind in ABOUT_ONE and other != question]
    if question.kind not in ABOUT_ONE:
        return {"whole scene": single}
    same = [other for other in single if other.relevant == question.relevant]
    return {"same thing": same, "other thing": [other for other in single if other not in same]}


def folder_questions(folder: Path, rule: str = "exact") -> Iterator[Item]:
    """Yield the questions of a folder: lines of questions.jsonl, pictures and videos beside it.

    A line: {"image": "a.jpg", "question": "...", "answer": "..." or ["...", ...]}, and, if wanted,
    a "kind", and a "rule" of scoring.RULES. Instead of "image" a "video", a file or a folder of
    frames in the order of their names. Paths are relative to the folder. "then" is a list of such
    questions about the same picture, without one of their own: the later turns of a chat.

    Args:
        rule: of lines that name none.

    Raises:
        ValueError: a line lacks something, or its picture is not there; names the line.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it needs one line a question")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield from _conversation(folder, str(number), json.loads(line), rule)
            except KeyError as error:
                raise ValueError(f"{path}:{number}: no {error}; see --help for the form") from None
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: {error}; see --help for the form") from None


def _conversation(folder: Path, name: str, line: dict, rule: str) -> Iterator[Item]:
    """The question of a line, and those that follow it in the same chat."""
    modality = "video" if "video" in line else "image"
    picture = folder / line[modality]
    frames = modality == "video" and picture.is_dir() and any(picture.iterdir())
    if not (picture.is_file() or frames):
        raise ValueError(f"no {'picture' if modality == 'image' else 'video'} {picture}")
    earlier: tuple[tuple[str, str], ...] = ()
    for turn, entry in enumerate([line, *line.get("then", ())]):
        kind = entry.get("kind", "follow-up" if turn else "all")
        answers, by = _accepted(entry), entry.get("rule", rule)
        item_name = f"{name}.{turn}" if turn else name
        question = entry["question"]
        yield Item(item_name, question, answers, kind, picture, modality, by, earlier)
        (usual, _), *_ = Counter(answers).most_common(1)
        earlier += ((question, usual),)


def _accepted(entry: dict) -> tuple[str, ...]:
    """The accepted answers of a question."""
    answers = entry["answer"]
    if isinstance(answers, str):
        answers = [answers]
    texts = isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
    if not texts or not answers:
        raise ValueError(f"answer must be a text or a list of texts, got {answers!r}")
    return tuple(answers)
