"""Which selections are made together, and that none depends on the others."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_script.pruning import MODES, PruningParams, groups, run_modes
from vllm_script.pruning.frames import frame_floors
from vllm_script.pruning.groups import groups_of
from vllm_script.pruning.task import Task

MOST = 40  # in place of thousands

OTHER = PruningParams(tau=0.3)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(groups, "MAX_TOKENS", MOST)


def task(
    num_tokens,
    budget=None,
    mode="script",
    num_frames=1,
    scored=True,
    seed=0,
    width=16,
    dtype=torch.float32,
    **fields,
):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(num_tokens, width, generator=generator).to(dtype)
    relevance = torch.rand(num_tokens, generator=generator) if scored else None
    budget = max(1, num_tokens // 3) if budget is None else budget
    floors = frame_floors(budget, num_frames, even=False) if num_frames > 1 else None
    return Task(
        tokens, budget, relevance, mode, fields.pop("params", PruningParams()), floors, **fields
    )


@pytest.mark.parametrize(
    "tasks, expected",
    [
        ([task(9), task(5), task(9)], [[0, 1, 2]]),
        ([task(9), task(9, mode="gsp"), task(5)], [[0, 2], [1]]),
        ([task(9), task(9, params=OTHER), task(5, params=OTHER)], [[0], [1, 2]]),
        ([task(9), task(9, scored=False), task(5)], [[0, 2], [1]]),
        ([task(9), task(9, backend="torch"), task(5)], [[0, 2], [1]]),
        ([task(9), task(9, dtype=torch.bfloat16), task(5)], [[0, 2], [1]]),
        ([task(9), task(9, width=8), task(5)], [[0, 2], [1]]),
        ([task(9), task(9, budget=9), task(5)], [[0, 2], [1]]),  # one keeps all
        ([task(9), task(9, num_frames=3), task(5), task(9, num_frames=3)], [[0, 2], [1], [3]]),
        ([task(20), task(20), task(20), task(20), task(20)], [[0, 1, 2, 3], [4]]),
        ([task(MOST), task(1), task(1)], [[0], [1, 2]]),
        ([task(30), task(10), task(20), task(14)], [[0, 1], [2, 3]]),
        ([task(1)] * 1601, [list(range(1600)), [1600]]),
        ([], []),
    ],
)
def test_groups(tasks, expected):
    """One call takes memory for its tokens times those of its largest task."""
    assert groups_of(tasks) == expected


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_does_not_depend_on_the_others(mode):
    """Items of many sizes, images and videos, in several groups."""
    tasks = [
        *(task(size, mode=mode, seed=size) for size in (1, 2, 7, 19, 40, 13, 33)),
        *(task(36, budget, mode, num_frames=6, seed=budget) for budget in (6, 17, 36)),
        *(task(25, mode=mode, scored=False, seed=1), task(31, mode=mode, params=OTHER)),
        task(24, 24, mode),
    ]
    together = run_modes(tasks)
    assert [len(kept) for kept in together] == [each.budget for each in tasks]
    for each, kept in zip(tasks, together, strict=True):
        assert torch.equal(kept, run_modes([each])[0])
    for order in (
        torch.randperm(len(tasks), generator=torch.Generator().manual_seed(0)).tolist(),
        [0],
    ):
        again = run_modes([tasks[place] for place in order])
        assert all(torch.equal(together[p], kept) for p, kept in zip(order, again, strict=True))


def test_nothing_is_selected_from_nothing():
    assert run_modes([]) == []


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made, in bytes."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for made in result if isinstance(result, tuple | list) else (result,):
            if isinstance(made, torch.Tensor):
                self.found = max(self.found, made.untyped_storage().nbytes())
        return result


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are not interpreted beside a GPU")
def test_a_group_takes_no_more_memory_than_one_large_selection(monkeypatch):
    """Of the kernels, in Triton's interpreter: PyTorch selects in one image after the other."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernels")
    monkeypatch.setattr(groups, "MAX_TOKENS", 64)
    sizes = [(64, 63)], [(32, 3)] * 5, [(50, 49), (33, 3), (40, 2), (40, 20)]
    found = []
    for group in sizes:
        tasks = [task(size, budget, "cdpruner", backend="triton") for size, budget in group]
        with Largest() as largest:
            run_modes(tasks)
        found.append(largest.found)
    assert max(found) == found[0]
