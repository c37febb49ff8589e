"""Selection in videos: exact counts, no frame without a token, graphs across frames."""

import pytest
import torch

from vllm_script.kernels import cosine_similarity
from vllm_script.pruning import MODES, PruningParams, run_mode
from vllm_script.pruning.frames import WINDOW_FRAMES, frame_floors, reduce_video_graph
from vllm_script.pruning.task import Task

FRAMES, SIZE = 6, 12


@pytest.fixture(scope="module")
def tokens():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(FRAMES * SIZE, 16, generator=generator)


def still(num_frames=FRAMES):
    """A video in which nothing moves."""
    frame = torch.randn(SIZE, 64, generator=torch.Generator().manual_seed(2))
    return frame.repeat(num_frames, 1)


def thinned(video, floors, target):
    """Rows that GSP leaves of a video, `target` at least, where only like tokens are neighbours."""
    params = PruningParams(tau=0.9, tau_relative=False)
    task = Task(video, sum(floors), None, "script", params, floors)
    pool = reduce_video_graph(cosine_similarity([video]), task, target)
    return pool.rows[: int(pool.counts[0])]


def kept_of_frames(kept):
    return torch.bincount(kept // SIZE, minlength=FRAMES).tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("budget", [FRAMES, FRAMES + 1, 23, FRAMES * SIZE - 1, FRAMES * SIZE])
@pytest.mark.parametrize("content", ["noise", "still", "nothing"])
def test_every_frame_keeps_its_floor(tokens, mode, even, budget, content):
    video = {"noise": tokens, "still": still(), "nothing": torch.zeros(FRAMES * SIZE, 16)}[content]
    relevance = torch.rand(len(video), generator=torch.Generator().manual_seed(1))
    floors = frame_floors(budget, FRAMES, even)
    kept = run_mode(video, budget, relevance, mode, PruningParams(), floors)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert len(kept) == budget
    counts = kept_of_frames(kept)
    assert counts == floors if even else min(counts) >= 1


@pytest.mark.parametrize("budget, shares", [(5, [1] * 5), (23, [4, 5, 4, 5, 5]), (60, [12] * 5)])
def test_even_floors(budget, shares):
    assert frame_floors(budget, 5, even=True) == shares
    assert frame_floors(budget, 5, even=False) == [1] * 5


def test_frames_compete_for_what_is_not_certain(tokens):
    """All that the question is about is in the fourth frame."""
    relevance = torch.full((len(tokens),), 0.01)
    relevance[3 * SIZE : 4 * SIZE] = 1.0
    floors = frame_floors(FRAMES + 6, FRAMES, even=False)
    kept = run_mode(tokens, FRAMES + 6, relevance, "cdpruner", PruningParams(), floors)
    assert kept_of_frames(kept) == [1, 1, 1, 7, 1, 1]


@pytest.mark.parametrize("mode", ["script", "cdpruner"])
def test_what_stands_still_is_kept_once(mode):
    """Each frame keeps its share, and together the shares show every place of the picture."""
    budget, params = 2 * SIZE, PruningParams(tau=0.9, tau_relative=False)
    kept = run_mode(still(), budget, None, mode, params, [budget // FRAMES] * FRAMES)
    assert len((kept % SIZE).unique()) == SIZE


def test_what_is_asked_for_is_kept_where_nothing_moves():
    """Each token has a copy in every frame, so GSP would leave hardly any that is asked for."""
    asked = torch.arange(3 * SIZE, 4 * SIZE - 2)
    relevance = torch.zeros(FRAMES * SIZE).index_fill(0, asked, 1.0)
    budget, params = 3 * SIZE, PruningParams(tau=0.9, tau_relative=False)
    floors = frame_floors(budget, FRAMES, even=False)
    kept = run_mode(still(), budget, relevance, "script", params, floors)
    assert set(asked.tolist()) <= set(kept.tolist())
    assert not set(asked.tolist()) <= set(thinned(still(), floors, budget).tolist())


@pytest.mark.parametrize("num_frames", [2, WINDOW_FRAMES, WINDOW_FRAMES + 1, 2 * WINDOW_FRAMES + 3])
def test_graph_joins_the_same_place_of_neighbouring_frames(num_frames):
    """No two tokens of a frame are alike, so only those of other frames can stand for one."""
    video, target = still(num_frames), num_frames * SIZE // 2
    left = thinned(video, [1] * num_frames, target)
    assert left.tolist() == sorted(set(left.tolist()))
    assert target <= len(left) < 3 * len(video) // 4
    assert len((left % SIZE).unique()) == SIZE  # every place has a survivor
    assert len(thinned(video[:SIZE], [1], SIZE // 2)) == SIZE


def test_a_frame_below_its_floor_stays_whole():
    """The second frame of four is one colour, and would be thinned out most."""
    generator = torch.Generator().manual_seed(3)
    video = torch.randn(4 * SIZE, 64, generator=generator)
    video[SIZE : 2 * SIZE] = torch.ones(64)
    for floor, fewest in ((1, 1), (SIZE - 1, SIZE)):
        left = thinned(video, [1, floor, 1, 1], SIZE)
        counts = torch.bincount(left // SIZE, minlength=4).tolist()
        assert counts[0] == counts[2] == counts[3] == SIZE
        assert fewest <= counts[1] <= (SIZE if floor > 1 else SIZE // 2)
