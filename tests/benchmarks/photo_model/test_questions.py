"""Questions have the answers that captions and masks say."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from vllm_script.benchmarks.photo_model import questions
from vllm_script.benchmarks.photo_model.photographs import Photograph, Thing


def thing(name, place=0.5, crowd=False):
    return Thing(name, 400, place, crowd)


def photograph(*things, captions=()):
    return Photograph(Path("a.jpg"), captions, things)


def test_counts():
    seen = photograph(
        *[thing("dog")] * 2, *[thing("car")] * 6, thing("person"), thing("person", crowd=True)
    )
    assert [(q.text, q.answer) for q in questions.countings(seen)] == [
        ("How many dogs are there? Answer with a number.", "2")
    ]


def test_sides():
    seen = photograph(
        thing("dog", 0.1), thing("cat", 0.9), thing("cup"), thing("car", 0.1), thing("car", 0.2)
    )
    found = {q.text.split(" is the ")[1].split("?")[0]: q.answer for q in questions.sides(seen)}
    assert found == {"dog": "left", "cat": "right"}


def test_matches_are_balanced_and_right():
    own = photograph(captions=("Own.",))
    other = photograph(captions=("Other.",))
    rng = Random(0)
    asked = [questions.match(own, [own, other], rng) for _ in range(400)]
    assert {("Own." in q.text, q.answer) for q in asked} == {(True, "yes"), (False, "no")}
    assert 160 < sum(q.answer == "yes" for q in asked) < 240


def test_existence_is_balanced_and_right():
    often, rng = Counter({"dog": 5, "cat": 3, "car": 2}), Random(0)
    asked = [questions.either({"dog"}, {"cat"}, often, rng) for _ in range(400)]
    said = Counter((q.text.split()[3], q.answer) for q in asked)
    assert said.keys() == {("dog", "yes"), ("car", "no")}
    assert 160 < said["dog", "yes"] < 240
    assert questions.either((), (), often, rng).answer == "no"


def test_things_in_captions():
    seen = photograph(captions=("Two men with hot dogs", "A man and a bus", "The catalogue"))
    names = ("person", "hot dog", "bus", "cat", "dog")
    assert questions.named(seen, names) == {"person": 2, "hot dog": 1, "bus": 1, "dog": 1}


@pytest.mark.parametrize(
    ("one", "many"),
    [("dog", "dogs"), ("bus", "buses"), ("bench", "benches"), ("person", "people"),
     ("scissors", "scissors"), ("sheep", "sheep"), ("wine glass", "wine glasses")],
)  # fmt: skip
def test_plurals(one, many):
    assert questions.plural(one) == many
