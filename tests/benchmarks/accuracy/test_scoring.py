"""Right and wrong, and how sure one can be."""

import numpy as np
import pytest

from vllm_script.benchmarks.accuracy.scoring import is_right, paired_difference, share


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("Red.", ["red"], True),
        ("the left", ["left"], True),
        ("A bus", ["truck", "bus"], True),
        ("reddish", ["red"], False),
        ("red and blue", ["red"], False),
        ("", ["red"], False),
        ("U.S.", ["u.s"], True),
    ],
)
def test_is_right(answer, accepted, right):
    assert is_right(answer, accepted) == right


def test_share_is_wilsons():
    # Wilson (1927) for 8 of 10, as in Newcombe (1998).
    value, low, high = share(np.array([True] * 8 + [False] * 2))
    assert value == 0.8
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)


def test_paired_difference_looks_at_what_only_one_got_right():
    right = np.array([True] * 30 + [True] * 6 + [False] * 4)
    other = np.array([True] * 30 + [False] * 6 + [True] * 0 + [False] * 4)
    gap = paired_difference(right, other)
    assert gap.value == pytest.approx(6 / 40)
    assert 0 < gap.low < gap.value < gap.high
    assert gap.p == pytest.approx(2 * 0.5**6)
    back = paired_difference(other, right)
    assert (back.low, back.high) == pytest.approx((-gap.high, -gap.low))


def test_equal_answers_leave_an_interval_around_zero():
    gap = paired_difference(np.array([True] * 24), np.array([True] * 24))
    assert gap.value == 0 and gap.p == 1
    assert gap.low < 0 < gap.high


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        outcome = rng.choice(4, size=200, p=[0.7, 0.12, 0.06, 0.12])  # both, first, second, none
        right, other = outcome <= 1, (outcome == 0) | (outcome == 2)
        gap = paired_difference(right, other)
        covered += gap.low <= 0.06 <= gap.high
    assert covered / 500 == pytest.approx(0.95, abs=0.03)
