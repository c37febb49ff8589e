"""Write the exam on photographs that no training has seen, as accuracy_bench.py reads it.

    python benchmarks/photo_model/exam.py --data DATA --out runs/photo/exam

DATA is described in photographs.py. OUT gets a questions.jsonl and links to the photographs. Of
Flickr8k it asks whether a sentence describes the picture; of COCO what is there, how many, and on
which side. Things that are not there are chosen as POPE does (Li et al., EMNLP 2023): at random,
the most frequent ones, and those that most often come with what is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

from vllm_script.benchmarks.common import ending_well, parser_of, write_lines
from vllm_script.benchmarks.photo_model.photographs import Photograph, read
from vllm_script.benchmarks.photo_model.questions import (
    Question,
    countings,
    existence,
    matching,
    names_of,
    other_than,
    sides,
)

ASKED = 3
"""Things of a photograph that are there, and that are not in each of the three ways."""
SMALL, MEDIUM = 32**2, 96**2
"""COCO's limits of small and of medium things, in pixels."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with ending_well(ValueError, OSError):
        number = write(args.data, args.out)
        print(f"{number} questions written to {args.out}")


def write(data: Path, out: Path) -> int:
    """Write the exam; return how many questions it has.

    Raises:
        ValueError: there are not all photographs.
    """
    test = read(data)["test"]
    rng = Random(0)
    (out / "photographs").mkdir(parents=True, exist_ok=True)
    lines = []
    for photograph, kind, question in [*matches(test.captioned, rng), *looks(test.masked, rng)]:
        link = out / "photographs" / photograph.path.name
        if not link.exists():
            link.symlink_to(photograph.path.resolve())
        lines.append(_line(f"photographs/{link.name}", kind, question))
    rng.shuffle(lines)  # so that the first n are of all kinds
    write_lines(out / "questions.jsonl", lines)
    return len(lines)


def matches(
    photographs: Sequence[Photograph], rng: Random
) -> Iterator[tuple[Photograph, str, Question]]:
    """Yield two questions of each: about a caption of its own and about another's."""
    for photograph in photographs:
        yield photograph, "match", matching(photograph, True, rng)
        yield photograph, "no match", matching(other_than(photograph, photographs, rng), False, rng)


def looks(
    photographs: Sequence[Photograph], rng: Random
) -> Iterator[tuple[Photograph, str, Question]]:
    """Yield questions about things: which are there, which are not, how many, and where."""
    seen = [names_of(photograph) for photograph in photographs]
    often = Counter(name for names in seen for name in sorted(names))
    together = Counter(pair for names in seen for pair in permutations(sorted(names), 2))
    for photograph, names in zip(photographs, seen, strict=True):
        largest: dict[str, float] = {}
        for thing in photograph.things or ():
            largest[thing.name] = max(largest.get(thing.name, 0.0), thing.area)
        for name in rng.sample(sorted(names), min(ASKED, len(names))):
            yield photograph, f"there, {_size(largest[name])}", existence(name, True)
        absent = [name for name, _ in often.most_common() if name not in names]
        beside = {name: sum(together[name, other] for other in names) for name in absent}
        ways = {
            "random": rng.sample(absent, min(ASKED, len(absent))),
            "popular": absent[:ASKED],
            "adversarial": sorted(absent, key=lambda name: -beside[name])[:ASKED],
        }
        for way, chosen in ways.items():
            for name in chosen:
                yield photograph, f"not there, {way}", existence(name, False)
        for question in [*countings(photograph), *sides(photograph)]:
            yield photograph, question.kind, question


def _size(area: float) -> str:
    return "small" if area < SMALL else "medium" if area < MEDIUM else "large"


def _line(image: str, kind: str, question: Question) -> dict[str, Any]:
    return {"image": image, "question": question.text, "answer": question.answer, "kind": kind}


if __name__ == "__main__":
    main()
