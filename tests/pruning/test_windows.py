"""Selection in very large items: exact counts, floors, windows that know nothing of each other."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_script.budget import even_shares
from vllm_script.pruning import MODES, PruningParams, groups, run_mode, windows
from vllm_script.pruning.frames import frame_floors

WINDOW = 48  # in place of thousands


def have_windows_of(num_tokens, monkeypatch):
    for module in (windows, groups):
        monkeypatch.setattr(module, "MAX_TOKENS", num_tokens)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    have_windows_of(WINDOW, monkeypatch)


def noise(num_tokens, seed=0):
    return torch.randn(num_tokens, 16, generator=torch.Generator().manual_seed(seed))


def relevance_of(num_tokens):
    return torch.rand(num_tokens, generator=torch.Generator().manual_seed(1))


def selected(tokens, budget, mode, floors=None):
    relevance = relevance_of(len(tokens))
    return run_mode(tokens, budget, relevance, mode, PruningParams(), floors).tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_tokens", [WINDOW + 1, 2 * WINDOW, 2 * WINDOW + 1, 500])
@pytest.mark.parametrize("part", [0.0, 0.11, 0.5, 1.0])
def test_an_image_keeps_exactly_its_budget(mode, num_tokens, part):
    budget = max(1, int(part * num_tokens))
    kept = selected(noise(num_tokens), budget, mode)
    assert kept == sorted(set(kept)) and len(kept) == budget
    assert kept[0] >= 0 and kept[-1] < num_tokens


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("num_frames, size", [(9, 12), (3, 48), (5, 49), (2, 120), (100, 3)])
@pytest.mark.parametrize("part", [0.0, 0.11, 0.5, 1.0])
def test_every_frame_keeps_its_floor(mode, even, num_frames, size, part):
    budget = max(num_frames, int(part * num_frames * size))
    floors = frame_floors(budget, num_frames, even)
    kept = selected(noise(num_frames * size), budget, mode, floors)
    assert kept == sorted(set(kept)) and len(kept) == budget
    counts = torch.bincount(torch.tensor(kept) // size, minlength=num_frames).tolist()
    assert counts == floors if even else min(counts) >= 1


@pytest.mark.parametrize("mode", set(MODES) - {"random"})
def test_a_window_does_not_depend_on_the_others(mode):
    """What is selected of an image's third window is what is selected of it alone."""
    tokens, budget = noise(4 * WINDOW), 40
    start, end = 2 * WINDOW, 3 * WINDOW
    of_window = [i - start for i in selected(tokens, budget, mode) if start <= i < end]
    alone = run_mode(
        tokens[start:end],
        even_shares(budget, 4)[2],
        relevance_of(len(tokens))[start:end],
        mode,
        PruningParams(),
    )
    assert of_window == alone.tolist()


def test_up_to_the_window_nothing_changes(monkeypatch):
    tokens = noise(WINDOW)
    at_once = selected(tokens, 10, "script")
    have_windows_of(10 * WINDOW, monkeypatch)
    assert selected(tokens, 10, "script") == at_once


class Peak(TorchDispatchMode):
    """Counts the largest tensor that is made, in bytes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, torch.Tensor):
                self.largest = max(self.largest, made.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("mode", MODES)
def test_memory_does_not_grow_with_the_square(monkeypatch, mode):
    """Beyond a window nothing is made that is larger than the tokens themselves."""
    have_windows_of(256, monkeypatch)
    largest = []
    for num_tokens in (256, 4096):
        tokens = noise(num_tokens)
        with Peak() as peak:
            selected(tokens, num_tokens // 4, mode)
        largest.append(peak.largest)
    assert largest[1] <= max(largest[0], 4096 * 16 * 4)
