"""Selection in videos: exact counts, no frame without a token."""

import pytest
import torch

from vllm_script.pruning import MODES, PruningParams, run_mode
from vllm_script.pruning.frames import run_mode_in_frames

FRAMES, SIZE = 5, 12


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(FRAMES * SIZE, 16, generator=generator)


def kept_of_frames(kept):
    return torch.bincount(kept // SIZE, minlength=FRAMES).tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("budget", [FRAMES, FRAMES + 1, 23, FRAMES * SIZE])
def test_every_frame_keeps_some(tokens, mode, budget):
    relevance = torch.rand(len(tokens), generator=torch.Generator().manual_seed(1))
    kept = run_mode_in_frames(tokens, budget, relevance, mode, PruningParams(), FRAMES, even=False)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == budget
    assert min(kept_of_frames(kept)) >= 1


@pytest.mark.parametrize("budget, shares", [(5, [1] * 5), (23, [4, 5, 4, 5, 5]), (60, [12] * 5)])
def test_even_shares(tokens, budget, shares):
    kept = run_mode_in_frames(tokens, budget, None, "script", PruningParams(), FRAMES, even=True)
    assert kept_of_frames(kept) == shares
    first = run_mode(tokens[:SIZE], shares[0], None, "script", PruningParams())
    assert kept[: shares[0]].tolist() == first.tolist()


def test_frames_compete_for_what_is_not_certain(tokens):
    """All that the question is about is in the fourth frame."""
    relevance = torch.full((len(tokens),), 0.01)
    relevance[3 * SIZE : 4 * SIZE] = 1.0
    kept = run_mode_in_frames(
        tokens, FRAMES + 6, relevance, "cdpruner", PruningParams(), FRAMES, even=False
    )
    assert kept_of_frames(kept) == [1, 1, 1, 7, 1]
