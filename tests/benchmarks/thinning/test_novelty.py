"""Patches that fill up evenly spaced ones."""

import math

import pytest
import torch

from vllm_script.benchmarks.thinning.novelty import add_novel


def test_by_hand():
    """Cosines with the spaced patches 0 and 3, the larger of each: 0.6 of 1, 0.8 of 2, 0 of 4."""
    states = torch.tensor([[1.0, 0, 0], [0.6, 0, 0.8], [0, 0.8, 0.6], [0, 2, 0], [0, 0, 5]])
    spaced = torch.tensor([0, 3])
    assert add_novel(states, spaced, 2).tolist() == [0, 3]
    assert add_novel(states, spaced, 3).tolist() == [0, 3, 4]
    assert add_novel(states, spaced, 4).tolist() == [0, 1, 3, 4]
    assert add_novel(states, spaced, 5).tolist() == [0, 1, 2, 3, 4]


def test_of_equal_ones_the_first_stays():
    states = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1], [0, 1]])
    assert add_novel(states, torch.tensor([0]), 3).tolist() == [0, 1, 3]


def reference(states, spaced, count):
    """The same, patch by patch and in float64."""
    rows = states.double().tolist()

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    others = [place for place in range(len(rows)) if place not in spaced]
    others.sort(key=lambda place: max(cosine(rows[place], rows[near]) for near in spaced))
    return sorted([*spaced, *others[: count - len(spaced)]])


@pytest.mark.parametrize("num, dim, spaced, count", [(16, 3, 4, 8), (63, 100, 24, 31)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference(num, dim, spaced, count, dtype):
    states = torch.randn(num, dim).to(dtype)
    places = torch.arange(0, num, num // spaced)[:spaced]
    kept = add_novel(states, places, count)
    assert kept.tolist() == reference(states, places.tolist(), count)


def test_states_at_any_stride():
    states = torch.randn(20, 8)
    spaced = torch.arange(0, 20, 4)
    assert torch.equal(
        add_novel(states, spaced, 9), add_novel(states.repeat(1, 2)[:, :8], spaced, 9)
    )


def test_picture_of_a_batch_is_as_alone():
    batch = torch.randn(5, 196, 192)
    spaced = torch.arange(0, 196, 3)
    for states in batch:
        assert torch.equal(add_novel(states, spaced, 98), add_novel(states.clone(), spaced, 98))
