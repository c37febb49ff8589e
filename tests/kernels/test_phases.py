"""One launch whose programs wait for each other, as on a GPU.

By one program, which meets itself, and by several at the same time, each in a process of its own
over shared memory. The interpreter's atomics are the processor's. A launch for each phase, in which
nobody waits, must select the same.
"""

import multiprocessing
import random
import sys
import time
from unittest import mock

import pytest
import torch
from triton.runtime import interpreter

from vllm_script.kernels import Pool, cosine_similarity, farthest_first, greedy_cover

from .ops import greedy_map, reduce_graph

GREEDY_MAP, REDUCE_GRAPH, FARTHEST_FIRST, GREEDY_COVER = (
    sys.modules[f"vllm_script.kernels.{name}"]
    for name in ("greedy_map", "reduce_graph", "farthest_first", "greedy_cover")
)
TIMEOUT = 120


def rows_of(num_tokens, rank=None, seed=0):
    rows = torch.randn(num_tokens, 40, generator=torch.Generator().manual_seed(seed))
    if rank is not None:
        rows[:, rank:] = 0.0
    return rows


def ragged():
    """Three images of which the first is of rank 8: relevance fills the places beyond."""
    lengths, targets, budgets = [70, 1, 50], [30, 1, 10], [12, 1, 10]
    rows = torch.cat([rows_of(70, rank=8), rows_of(51)])
    relevance = torch.rand(121, generator=torch.Generator().manual_seed(0))
    settings = {"tau": 0.1, "tau_relative": True, "gamma": 1.0, "backend": "triton"}
    pool = reduce_graph(rows, targets, **settings, lengths=lengths)
    picks = greedy_map(rows, relevance, budgets, lengths=lengths, pool=pool, backend="triton")
    return picks, pool.counts


def duplicates():
    """Every row three times, and an absolute threshold: ties at every step of both."""
    rows = rows_of(30).repeat(3, 1)
    settings = {"tau": 0.3, "tau_relative": False, "gamma": 0.0, "backend": "triton"}
    pool = reduce_graph(rows, 40, **settings)
    return greedy_map(rows, None, 36, pool=pool, backend="triton"), pool.counts


def frames():
    """A video in windows, with floors that its frames are sure to keep."""
    rows, relevance = rows_of(96), torch.rand(96, generator=torch.Generator().manual_seed(0))
    windows = torch.randperm(96, generator=torch.Generator().manual_seed(1)).split([50, 46])
    settings = {"tau": 0.0, "tau_relative": True, "gamma": 1.0, "backend": "triton"}
    pool = reduce_graph(rows, [30, 30], **settings, windows=windows)
    every = Pool(torch.arange(96), torch.tensor([96]))
    picks = greedy_map(rows, relevance, 20, pool=every, floors=[4, 0, 9, 3], backend="triton")
    return picks, pool.counts


def whole():
    """Three images in two of which all are candidates, by more programs than there is room for."""
    lengths, budgets = [90, 64, 80], [9, 12, 10]
    rows = rows_of(234)
    return greedy_map(rows, None, budgets, lengths=lengths, backend="triton"), torch.tensor(lengths)


def beyond_registers():
    """Four values of a token's factor are in registers, the rest is read in parts of two."""
    rows, relevance = rows_of(90), torch.rand(90, generator=torch.Generator().manual_seed(0))
    with mock.patch.multiple(GREEDY_MAP, RESIDENT_VALUES=128, CHUNK_VALUES=64):
        picks = greedy_map(rows, relevance, 15, backend="triton")
    return picks, torch.tensor([90])


def two_images():
    """Their similarity, and values in [0, 1]. The second has every row twice, of equal value."""
    similarity = cosine_similarity([rows_of(70), rows_of(17).repeat(2, 1)], backend="triton")
    values = torch.rand(87, generator=torch.Generator().manual_seed(0))
    return similarity, torch.cat([values, values[70:]])


def spread():
    """By distance, and by distance, weight and bonus."""
    similarity, values = two_images()
    picks = farthest_first(similarity, [5, 6])
    return picks, farthest_first(similarity, [5, 6], values, 1 - values)


def cover():
    """As far as each token needs it."""
    similarity, values = two_images()
    return (greedy_cover(similarity, [5, 6], values),)


def launch_at_once(kernel, num_programs, num_phases, device, /, is_slow=False, **arguments):
    """`launch_phases` with a process for every program; tensors move to memory that all share."""
    for argument in arguments.values():
        if isinstance(argument, torch.Tensor):
            argument.share_memory_()
    constants = {"num_warps", "num_stages"}
    arguments = {name: value for name, value in arguments.items() if name not in constants}

    def program(index):
        builder = interpreter.interpreter_builder
        builder.set_grid_dim = lambda x, y, z: setattr(builder, "grid_dim", (num_programs, 1, 1))
        builder.set_grid_idx = lambda x, y, z: setattr(builder, "grid_idx", (index, 0, 0))
        if is_slow:
            slow_down(builder, random.Random(index))
        kernel[(1,)](**arguments, first_phase=0, TOGETHER=True)

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=program, args=(index,)) for index in range(num_programs)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    exits = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert exits == [0] * num_programs, f"programs ended with {exits}; None waited for ever"


def slow_down(builder, rng):
    """Have a program take its time at memory, now and then, so that the others come first."""
    for name in "create_masked_store", "create_atomic_rmw":
        fast = getattr(builder, name)

        def slow(*args, fast=fast):
            if rng.random() < 0.05:
                time.sleep(rng.uniform(0.0, 0.01))
            return fast(*args)

        setattr(builder, name, slow)


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    "select, num_programs, is_slow",
    [
        (ragged, 1, False),
        (ragged, 3, False),
        (ragged, 3, True),
        (duplicates, 3, False),
        (frames, 3, True),
        (whole, 4, True),
        (beyond_registers, 3, True),
        (spread, 1, False),
        (spread, 4, True),
        (cover, 1, False),
        (cover, 4, True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_one_launch_is_all_phases(select, num_programs, is_slow, monkeypatch):
    monkeypatch.setattr(GREEDY_MAP, "TOKENS_PER_PROGRAM", 128 if num_programs == 1 else 32)
    for module in GREEDY_MAP, REDUCE_GRAPH, FARTHEST_FIRST, GREEDY_COVER:
        monkeypatch.setattr(module, "num_waiting_programs", lambda device: num_programs)
    by_phase = select()

    def launch(*args, **kwargs):
        launch_at_once(*args, is_slow=is_slow, **kwargs)

    for module in GREEDY_MAP, REDUCE_GRAPH, FARTHEST_FIRST, GREEDY_COVER:
        monkeypatch.setattr(module, "launch_phases", launch)
    for ours, expected in zip(select(), by_phase, strict=True):
        assert torch.equal(ours, expected)
