"""The questions: held-out ones about synthetic scenes, or a folder of the user's own."""

from __future__ import annotations

import base64
import io
import json
import mimetypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo_model"
FILE = "questions.jsonl"


@dataclass(frozen=True)
class Item:
    """One question about one picture."""

    id: str
    question: str
    answers: tuple[str, ...]
    """Any of them is right."""
    kind: str
    """What the accuracy is broken down by."""
    picture: bytes | Path
    """A PNG, or a file that is read when it is asked about."""

    @cached_property
    def data_url(self) -> str:
        """The picture as a request carries it."""
        if isinstance(self.picture, bytes):
            data, media = self.picture, "image/png"
        else:
            data = self.picture.read_bytes()
            media = mimetypes.guess_type(self.picture.name)[0] or "image/png"
        return f"data:{media};base64,{base64.b64encode(data).decode()}"


def demo_questions(split: str, num_questions: int) -> Iterator[Item]:
    """Yield the held-out questions of script-demo; `split` is dev or test."""
    sys.path.insert(0, str(DEMO_MODEL))
    from PIL import Image
    from script_demo.held_out import held_out
    from script_demo.pictures import draw

    for index, (scene, question) in enumerate(held_out(split, num_questions)):
        png = io.BytesIO()
        Image.fromarray(draw(scene)[0]).save(png, "PNG")
        yield Item(
            f"{split}-{index}", question.text, (question.answer,), question.kind, png.getvalue()
        )


def folder_questions(folder: Path) -> Iterator[Item]:
    """Yield the questions of a folder: lines of questions.jsonl, pictures beside it.

    A line: {"image": "a.jpg", "question": "...", "answer": "..." or ["...", ...]}, and, if wanted,
    a "kind". Paths are relative to the folder.

    Raises:
        ValueError: a line lacks something, or its picture is not there; names the line.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{path} does not exist; it needs one line a question")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                yield _item(folder, str(number), json.loads(line))
            except KeyError as error:
                raise ValueError(f"{path}:{number}: no {error}; see --help for the form") from None
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}:{number}: {error}; see --help for the form") from None


def _item(folder: Path, name: str, entry: dict) -> Item:
    answers = entry["answer"]
    if isinstance(answers, str):
        answers = [answers]
    texts = isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
    if not texts or not answers:
        raise ValueError(f"answer must be a text or a list of texts, got {answers!r}")
    picture = folder / entry["image"]
    if not picture.is_file():
        raise ValueError(f"no picture {picture}")
    return Item(name, entry["question"], tuple(answers), entry.get("kind", "all"), picture)
