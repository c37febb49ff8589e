"""Where kernels are launched, and what happens where that is refused."""

import logging
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from vllm_script import kernels
from vllm_script.kernels import _launch
from vllm_script.kernels._launch import (
    launch,
    launch_phases,
    num_waiting_programs,
    ops_in_torch,
    run_op,
)

CPU = torch.device("cpu")
X = torch.zeros(1)


@pytest.fixture(autouse=True)
def nothing_refused_yet(monkeypatch):
    for name in "_in_torch", "_launched", "_by_phase":
        monkeypatch.setattr(_launch, name, set())
    monkeypatch.setattr(_launch, "use_triton", lambda backend, x: backend != "torch")


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.WARNING, "vllm.script"):
        # Where vLLM has set up its logging in this process, a record comes by two ways.
        yield lambda: list(dict.fromkeys(record.getMessage() for record in caplog.records))


def fails():
    raise RuntimeError("Triton Error [CUDA]: no kernel image is available\nand more")


def test_an_op_that_does_not_launch_runs_in_pytorch_from_then_on(warnings):
    calls = []

    def with_triton():
        calls.append("triton")
        fails()

    for _ in range(3):
        assert run_op("greedy_map", "auto", X, with_triton, lambda: "torch") == "torch"
    assert calls == ["triton"]
    (warning,) = warnings()
    assert warning.startswith("Script's greedy_map runs in PyTorch on cpu, which is slower")
    assert warning.endswith("(RuntimeError: Triton Error [CUDA]: no kernel image is available)")
    assert ops_in_torch(CPU) == ["greedy_map"]
    # Others are not affected.
    assert run_op("reduce_graph", "auto", X, lambda: "triton", lambda: "torch") == "triton"


def test_an_op_that_has_run_does_not_fall_back(warnings):
    """Something else is wrong then, and what is selected must not change under way."""
    assert run_op("greedy_map", "auto", X, lambda: "triton", lambda: "torch") == "triton"
    with pytest.raises(RuntimeError, match="no kernel image"):
        run_op("greedy_map", "auto", X, fails, lambda: "torch")
    assert warnings() == [] and ops_in_torch(CPU) == []


def test_backend_triton_does_not_fall_back(warnings):
    with pytest.raises(RuntimeError, match="no kernel image"):
        run_op("greedy_map", "triton", X, fails, lambda: "torch")
    assert warnings() == []


def test_backend_torch_launches_nothing():
    assert run_op("greedy_map", "torch", X, fails, lambda: "torch") == "torch"


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_memory_that_is_out_is_no_reason(kind, warnings):
    def out_of_memory():
        raise kind("Triton Error [CUDA]: out of memory")

    with pytest.raises(kind):
        run_op("greedy_map", "auto", X, out_of_memory, lambda: "torch")
    assert warnings() == []


class Kernel:
    """Notes its launches, and may refuse programs that wait for each other."""

    def __init__(self, error=None):
        self.error, self.launches = error, []

    def __getitem__(self, grid):
        def run(**arguments):
            if arguments.get("launch_cooperative_grid") and self.error is not None:
                raise RuntimeError(f"Triton Error [CUDA]: {self.error}")
            self.launches.append((grid, arguments))

        return run


def phases_of(kernel):
    return [(arguments["first_phase"], arguments["TOGETHER"]) for _, arguments in kernel.launches]


def test_waiting_programs_are_one_cooperative_launch(monkeypatch):
    monkeypatch.setattr(_launch, "is_interpreted", lambda: False)
    kernel = Kernel()
    launch_phases(kernel, 7, 3, CPU, x_ptr=X)
    assert phases_of(kernel) == [(0, True)]
    assert kernel.launches[0][0] == (7,)


@pytest.mark.parametrize(
    "words", ["too many blocks in cooperative launch", "operation not supported"]
)
def test_a_refused_launch_is_one_for_each_phase(words, monkeypatch, warnings):
    monkeypatch.setattr(_launch, "is_interpreted", lambda: False)
    kernel = Kernel(words)
    for _ in range(2):
        launch_phases(kernel, 7, 3, CPU, x_ptr=X)
    assert phases_of(kernel) == 2 * [(0, False), (1, False), (2, False)]
    (warning,) = warnings()
    assert "phase by phase on cpu" in warning and words in warning


def test_another_error_of_a_launch_is_one(monkeypatch, warnings):
    monkeypatch.setattr(_launch, "is_interpreted", lambda: False)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        launch_phases(Kernel("an illegal memory access was encountered"), 7, 3, CPU)
    assert warnings() == []


def test_a_launch_is_on_the_device_of_its_tensors(monkeypatch):
    entered = []

    @contextmanager
    def device(which):
        entered.append(which)
        yield
        entered.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    kernel, seen = Kernel(), []
    monkeypatch.setattr(Kernel, "__getitem__", lambda self, grid: lambda **_: seen.append(*entered))
    launch(kernel, (1,), torch.device("cuda:1"))
    assert seen == [torch.device("cuda:1")] and entered == []


def test_every_kernel_is_launched_there():
    """No other file launches one, so each is on the right device and rounds alike."""
    folder = Path(kernels.__file__).parent
    launching = [
        path.name for path in folder.rglob("*.py") if re.search(r"kernel\[.*\]\(", path.read_text())
    ]
    assert launching == ["_launch.py"]
    kernel = Kernel()
    launch(kernel, (1,), CPU)
    assert kernel.launches == [((1,), {"enable_fp_fusion": True})]


@pytest.mark.parametrize("count, expected", [(132, 124), (108, 100), (58, 51), (14, 13), (4, 4)])
def test_some_multiprocessors_are_left_to_others(count, expected, monkeypatch):
    properties = type("Properties", (), {"multi_processor_count": count})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert num_waiting_programs(torch.device("cuda:0")) == expected
