"""Held-out questions, spread evenly over the kinds, and what a blind guesser scores on them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator

from .questions import Question, questions_of
from .scene import Scene, scene_of
from .splits import seed_of
from .words import TYPES


def held_out(split: str, num_questions: int) -> Iterator[tuple[Scene, Question]]:
    """Yield one question a scene, the kinds taking turns; a scene that lacks a kind is skipped."""
    index = served = 0
    while served < num_questions:
        scene = scene_of(seed_of(split, index))
        index += 1
        kind = TYPES[served % len(TYPES)]
        question = next((q for q in questions_of(scene) if q.kind == kind), None)
        if question is not None:
            served += 1
            yield scene, question


def blind_accuracy(known: Iterable[Question], asked: Iterable[Question]) -> dict[str, float]:
    """Return the accuracy per kind, and of "all", of answering from the question's words alone.

    The guesser has seen `known` and gives each text its most frequent answer there; a text it never
    saw gets the most frequent answer of its kind.
    """
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    for question in known:
        by_text[question.text][question.answer] += 1
        by_kind[question.kind][question.answer] += 1
    hits: dict[str, list[bool]] = defaultdict(list)
    for question in asked:
        seen = by_text.get(question.text) or by_kind[question.kind]
        hits[question.kind].append(seen.most_common(1)[0][0] == question.answer)
    return accuracy_by_kind(hits)


def accuracy_by_kind(hits: dict[str, list[bool]]) -> dict[str, float]:
    """Return the mean of each kind in the order of words.TYPES, then of "all" questions."""
    table = {kind: sum(hits[kind]) / len(hits[kind]) for kind in TYPES if hits.get(kind)}
    every = [hit for kind_hits in hits.values() for hit in kind_hits]
    return table | {"all": sum(every) / len(every)}
