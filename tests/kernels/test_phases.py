"""One launch that runs all phases, as on a GPU: by one program, which meets itself, and by several
at the same time, each in a process of its own. The interpreter's atomics are the processor's."""

import multiprocessing
import sys

import pytest
import torch
from triton.runtime import interpreter

from vllm_script.kernels import greedy_map, reduce_graph

GREEDY_MAP, REDUCE_GRAPH = (sys.modules[op.__module__] for op in (greedy_map, reduce_graph))

LENGTHS, TARGETS, BUDGETS = [70, 1, 50], [30, 1, 10], [12, 1, 10]
TIMEOUT = 120


def select(tau_relative):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(121, 40, generator=generator)
    relevance = torch.rand(121, generator=generator)
    rows[:70, 8:] = 0.0  # of rank 8: relevance fills the places beyond
    settings = {"tau": 0.1, "tau_relative": tau_relative, "gamma": 1.0, "backend": "triton"}
    pool = reduce_graph(rows, TARGETS, **settings, lengths=LENGTHS)
    picks = greedy_map(rows, relevance, BUDGETS, lengths=LENGTHS, pool=pool, backend="triton")
    return picks, pool.counts


def run_at_once(
    kernel, num_programs, num_phases, *arguments, cooperative=True, num_warps=4, **constants
):
    """`run_phases` with a process for every program; tensors move to memory that all share."""
    for argument in arguments:
        if isinstance(argument, torch.Tensor):
            argument.share_memory_()

    def program(index):
        builder = interpreter.interpreter_builder
        builder.set_grid_dim = lambda x, y, z: setattr(builder, "grid_dim", (num_programs, 1, 1))
        builder.set_grid_idx = lambda x, y, z: setattr(builder, "grid_idx", (index, 0, 0))
        kernel[(1,)](*arguments, 0, TOGETHER=True, **constants)

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


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("num_programs, tau_relative", [(1, False), (3, True)])
def test_one_launch_is_all_phases(num_programs, tau_relative, monkeypatch):
    monkeypatch.setattr(GREEDY_MAP, "TOKENS_PER_PROGRAM", 32)
    monkeypatch.setattr(REDUCE_GRAPH, "INTERPRETED_PROGRAMS", num_programs)
    monkeypatch.setattr(GREEDY_MAP, "INTERPRETED_MULTIPROCESSORS", num_programs * len(LENGTHS))
    by_phase = select(tau_relative)
    monkeypatch.setattr(GREEDY_MAP, "run_phases", run_at_once)
    monkeypatch.setattr(REDUCE_GRAPH, "run_phases", run_at_once)
    for ours, expected in zip(select(tau_relative), by_phase, strict=True):
        assert torch.equal(ours, expected)
