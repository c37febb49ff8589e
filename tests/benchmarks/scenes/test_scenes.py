"""Scenes and questions: repeatable, unambiguous, balanced, and never in two splits."""

import re
from itertools import combinations

import numpy as np
import pytest

from vllm_script.benchmarks.scenes.held_out import blind_accuracy, held_out
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.benchmarks.scenes.questions import questions_of
from vllm_script.benchmarks.scenes.scene import GAP, scene_of
from vllm_script.benchmarks.scenes.splits import SPLITS, seed_of
from vllm_script.benchmarks.scenes.words import COLORS, COUNTS, PLURALS, SHAPES, TYPES

SEEDS = range(300)


def test_seed_decides_everything():
    for seed in (0, 1, 2_000_000_005):
        scene = scene_of(seed)
        assert scene == scene_of(seed)
        assert questions_of(scene) == questions_of(scene_of(seed))
        for first, second in zip(draw(scene), draw(scene), strict=True):
            np.testing.assert_array_equal(first, second)
    assert scene_of(1) != scene_of(2)


def test_splits_are_disjoint():
    for (_, first), (_, second) in combinations(SPLITS.items(), 2):
        assert not range(max(first.start, second.start), min(first.stop, second.stop))
    assert seed_of("test", 3) in SPLITS["test"]
    with pytest.raises(IndexError):
        seed_of("dev", len(SPLITS["dev"]))


def test_mask_shows_every_thing_apart():
    for seed in SEEDS[:60]:
        scene = scene_of(seed)
        picture, mask = draw(scene)
        assert picture.shape == (scene.height, scene.width, 3)
        assert set(np.unique(mask)) == set(range(len(scene.things) + 1))
        for a, b in combinations(scene.things, 2):
            apart = max(abs(a.x - b.x), abs(a.y - b.y)) - (a.size + b.size) / 2
            assert apart >= GAP


@pytest.mark.parametrize("seed", SEEDS[::10])
def test_answers_follow_from_the_things_alone(seed):
    scene = scene_of(seed)
    for question in questions_of(scene):
        assert _solve(question.text, scene) == {question.answer}, question


def test_every_kind_is_asked_and_blind_guessing_fails():
    known = [q for seed in range(10_000, 13_000) for q in questions_of(scene_of(seed))]
    blind = blind_accuracy(known, [question for _, question in held_out("dev", 1200)])
    assert list(blind) == [*TYPES, "all"]
    chance = {"color": 1 / 8, "shape": 1 / 6, "existence": 1 / 2, "count": 1 / 4, "position": 1 / 2}
    for kind, share in chance.items():
        assert blind[kind] < share + 0.09
    assert blind["digit"] < 0.26
    assert blind["all"] < 0.34


def _solve(text, scene):
    """Return all answers that the things allow; shares no code with questions.py."""
    words = re.findall(r"\w+", text)
    colors = [w for w in words if w in COLORS]
    shapes = [w for w in words if w in SHAPES]
    digits = [w for w in words if w.isdigit()]
    plural = [s for s, p in PLURALS.items() if p in words]
    shown = [t for t in scene.things if not t.is_digit]
    if text.startswith(("Is there", "Can you see")):
        (color,), (shape,) = colors, shapes
        return {"yes" if any((t.color, t.name) == (color, shape) for t in shown) else "no"}
    if text.startswith("How many"):
        if plural:
            return {COUNTS[sum(t.name == plural[0] for t in scene.things)]}
        with_digits = {sum(t.color == colors[0] for t in some) for some in (shown, scene.things)}
        return {COUNTS[count] for count in with_digits}
    if "digit" in words:
        glyphs = [t for t in scene.things if t.is_digit]
        if digits:
            return {t.color for t in glyphs if t.name == digits[0]}
        return {t.name for t in glyphs if t.color == colors[0]}
    fits = [
        t for t in scene.things
        if (not colors or t.color == colors[0]) and (not shapes or t.name == shapes[0])
    ]  # fmt: skip
    if "left" in words:
        return {("left", "right")[t.x > scene.width / 2] for t in fits}
    if "top" in words:
        return {("top", "bottom")[t.y > scene.height / 2] for t in fits}
    return {t.name if "shape" in words else t.color for t in fits}
