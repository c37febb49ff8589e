"""accuracy_bench.py reads the exam, and its answers are those of the pictures."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from vllm_script.benchmarks.accuracy.questions import folder_questions
from vllm_script.benchmarks.photo_model import exam, tiny
from vllm_script.benchmarks.photo_model.photographs import Photograph, Thing, read


@pytest.fixture(scope="module")
def items(folder):
    number = exam.write(folder / "data", folder / "exam")
    items = list(folder_questions(folder / "exam"))
    assert len(items) == number
    return items


def test_kinds(items):
    kinds = Counter(item.kind for item in items)
    held_out, masked = tiny.CAPTIONED // 4, 2 * tiny.MASKED
    # One thing in every picture, of three that there are: two are not there, each in three ways.
    absent = {f"not there, {way}": 2 * masked for way in ("random", "popular", "adversarial")}
    assert kinds == {
        "match": held_out,
        "no match": held_out,
        "there, small": masked,
        "count": masked,
        "side": masked,
        **absent,
    }


def test_pictures_are_held_out(folder, items):
    test = read(folder / "data")["test"]
    held_out = {p.path.resolve() for p in (*test.captioned, *test.masked)}
    assert {item.picture.resolve() for item in items} == held_out


def test_answers(folder, items):
    things = {p.path.resolve(): p.things[0] for p in read(folder / "data")["test"].masked}
    for item in items:
        (answer,) = item.answers
        if item.kind == "side":
            assert (answer == "left") == (things[item.picture.resolve()].place < 0.5)
        elif item.kind == "count":
            assert answer == "1"
        elif "there" in item.kind:
            name = item.question.split("any ")[1].split(" in ")[0]
            there = name == things[item.picture.resolve()].name
            assert (answer == "yes") == there == item.kind.startswith("there")


def test_popular_things_are_asked_first():
    """A car is in most pictures, a leash comes with a dog."""
    names = [("dog",), ("dog", "leash"), ("car", "cup"), ("car", "bus"), ("car", "cat"), ("sun",)]
    seen = [
        Photograph(Path(str(n)), (), tuple(Thing(name, 9e9, 0.5, False) for name in group))
        for n, group in enumerate(names)
    ]
    asked = {"popular": [], "adversarial": []}
    for photograph, kind, question in exam.looks(seen, Random(0)):
        if photograph is seen[0] and kind.startswith("not there") and "random" not in kind:
            asked[kind.split(", ")[1]].append(question.text.split("any ")[1].split(" in ")[0])
    assert asked["popular"][0] == "car" and asked["adversarial"][0] == "leash"
