"""On a GPU the number of launches does not grow with the budget: no mode is a loop of them."""

import sys
from unittest import mock

import pytest
import torch

from vllm_script.pruning import MODES, PruningParams, run_modes
from vllm_script.pruning.task import Task

from ..pretend_gpu import PretendGpu, to_gpu

pytest.importorskip("triton", reason="without Triton the reference runs on a GPU")


class Counting(PretendGpu):
    """Counts the operations of PyTorch that would be launches."""

    def __init__(self):
        super().__init__()
        self.launches = 0

    def __torch_dispatch__(self, func, classes, args=(), kwargs=None):
        name, returns = func._schema.name, func._schema.returns
        is_view = bool(returns) and returns[0].alias_info is not None and not name.endswith("_")
        self.launches += not (is_view or name.startswith("aten::empty"))
        return super().__torch_dispatch__(func, classes, args, kwargs)


@pytest.fixture(autouse=True)
def one_program(monkeypatch):
    """Several take a launch for each phase, in the interpreter alone."""
    for name in "farthest_first", "greedy_cover", "greedy_map", "reduce_graph":
        module = sys.modules[f"vllm_script.kernels.{name}"]  # the package's own is the function
        monkeypatch.setattr(module, "num_waiting_programs", lambda device: 1)


def launches_of(mode, geometry, budget):
    """How many launches a selection in 100 tokens takes, and the kernels among them."""
    from triton.runtime.interpreter import InterpretedFunction

    generator = torch.Generator().manual_seed(0)
    tokens, relevance = torch.randn(100, 8, generator=generator), torch.rand(100)
    gpu = Counting()
    with gpu.running():
        tokens, relevance = to_gpu(tokens), to_gpu(relevance)
        run, kernels = InterpretedFunction.run, []

        def noting(kernel, *args, **kwargs):
            kernels.append(kernel.__name__)
            return run(kernel, *args, **kwargs)

        task = Task(tokens, budget, relevance, mode, PruningParams(geometry=geometry))
        with mock.patch.object(InterpretedFunction, "run", noting):
            run_modes([task])
    return gpu.launches + len(kernels), kernels


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU")
@pytest.mark.parametrize(
    ("mode", "geometry"),
    [
        (mode, geometry)
        for mode, its in MODES.items()
        for geometry in (("raw", "centered") if "geometry" in its.reads else ("raw",))
    ],
)
def test_launches_do_not_grow_with_the_budget(mode, geometry):
    few, many = (launches_of(mode, geometry, budget) for budget in (3, 25))
    assert few == many
