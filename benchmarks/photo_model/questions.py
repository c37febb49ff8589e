"""Questions about a photograph that its captions or its masks answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from random import Random
from typing import NamedTuple

from .photographs import Photograph

KINDS = ("caption", "match", "existence", "count", "side")
MOST = 5
"""Things of a kind that are still to be counted."""
ASIDE = 0.4
"""A thing whose middle is less than this far from an edge is on that side."""
SAID = 2
"""Captions that name a thing which is surely there."""
PEOPLE = "person people man men woman women boy boys girl girls child children kid kids lady player"
IRREGULAR = {"person": "people", "knife": "knives", "mouse": "mice", "sheep": "sheep"}
SAME = ("skis", "scissors")
"""Names that are plurals already."""


class Question(NamedTuple):
    """A question, and the one answer that is right."""

    text: str
    answer: str
    kind: str
    """One of KINDS."""


def caption(photograph: Photograph, rng: Random) -> Question:
    """Ask for one of its captions."""
    text = "Describe the picture in one sentence."
    return Question(text, rng.choice(photograph.captions) + ".", "caption")


def match(photograph: Photograph, others: Sequence[Photograph], rng: Random) -> Question:
    """Ask about a caption of its own or of another photograph, each half of the time."""
    is_own = rng.random() < 0.5
    return matching(photograph if is_own else other_than(photograph, others, rng), is_own, rng)


def matching(described: Photograph, is_own: bool, rng: Random) -> Question:
    """Ask whether a caption of `described` is right; `is_own`: it is."""
    sentence = rng.choice(described.captions)
    text = f'Does this describe the picture: "{sentence}"? Answer yes or no.'
    return Question(text, "yes" if is_own else "no", "match")


def other_than(photograph: Photograph, others: Sequence[Photograph], rng: Random) -> Photograph:
    """Another photograph."""
    while (other := rng.choice(others)) is photograph:
        pass
    return other


def existence(name: str, is_there: bool) -> Question:
    """Ask whether there is a thing of that name."""
    text = f"Is there any {name} in the picture? Answer yes or no."
    return Question(text, "yes" if is_there else "no", "existence")


def either(seen: Collection[str], hinted: Collection[str], often: Counter, rng: Random) -> Question:
    """Ask about a thing that is seen or about one that is not, each half of the time.

    Both are drawn by how often a thing is seen, so that its name alone says little.

    Args:
        seen: names of what is there.
        hinted: names of what may be there, which is not asked about.
        often: how often each thing is seen in all photographs.
    """
    is_there = bool(seen) and rng.random() < 0.5
    absent = [name for name in often if name not in seen and name not in hinted]
    names = sorted(seen) if is_there else absent
    (name,) = rng.choices(names, [often[name] for name in names])
    return existence(name, is_there)


def countings(photograph: Photograph) -> list[Question]:
    """Ask how many there are of each thing, up to MOST."""
    things = photograph.things or ()
    crowds = {thing.name for thing in things if thing.crowd}
    numbers = Counter(thing.name for thing in things)
    return [
        Question(f"How many {plural(name)} are there? Answer with a number.", str(number), "count")
        for name, number in numbers.items()
        if number <= MOST and name not in crowds
    ]


def sides(photograph: Photograph) -> list[Question]:
    """Ask on which side a thing is, where it is the only one of its name and not in the middle."""
    things = photograph.things or ()
    numbers = Counter(thing.name for thing in things)
    found = []
    for thing in things:
        side = "left" if thing.place < ASIDE else "right" if thing.place > 1 - ASIDE else None
        if side and numbers[thing.name] == 1 and not thing.crowd:
            text = f"On which side of the picture is the {thing.name}? Answer left or right."
            found.append(Question(text, side, "side"))
    return found


def names_of(photograph: Photograph) -> set[str]:
    """Names of the things that its masks have."""
    return {thing.name for thing in photograph.things or ()}


def named(photograph: Photograph, names: Iterable[str]) -> Counter:
    """How many of its captions name each of those things."""
    found: Counter = Counter()
    for sentence in photograph.captions:
        text = " ".join(re.findall("[a-z]+", sentence.lower()))
        found.update(name for name in names if _pattern(name).search(text))
    return found


def plural(name: str) -> str:
    """The plural of a thing's name."""
    if name in SAME or name in IRREGULAR:
        return IRREGULAR.get(name, name)
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


_patterns: dict[str, re.Pattern] = {}


def _pattern(name: str) -> re.Pattern:
    """What finds a thing's name in a text of lower-case words, singular or plural."""
    if name not in _patterns:
        words = PEOPLE.split() if name == "person" else [name, plural(name)]
        _patterns[name] = re.compile(rf"\b(?:{'|'.join(words)})\b")
    return _patterns[name]
