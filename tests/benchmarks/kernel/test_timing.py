"""Arithmetic of times and of work; a GPU is pretended by a clock."""

import time
from types import SimpleNamespace

import pytest
import torch

from vllm_script.benchmarks.kernel import timing
from vllm_script.benchmarks.kernel.inputs import Shape
from vllm_script.benchmarks.kernel.timing import (
    Times,
    measured,
    num_flushes,
    product_flop,
    work_of,
)

LLAVA_NEXT = Shape(2880, 4096, 0.11, 322, 1)
BFLOAT16 = torch.bfloat16


class Gpu:
    """Work takes time on it, which the host enqueues for a fiftieth of that."""

    def __init__(self):
        self.done = self.now = 0.0
        """Until when it has work, and what time it is, in seconds."""
        self.calls = self.flushed = 0

    def enqueue(self, seconds):
        self.now += seconds / 50
        self.done = max(self.done, self.now) + seconds

    def synchronize(self):
        self.now = max(self.now, self.done)

    def event(self, enable_timing):
        event = SimpleNamespace(at=None)
        event.record = lambda: setattr(event, "at", max(self.done, self.now))
        event.elapsed_time = lambda end: 1e3 * (end.at - event.at)
        return event

    def run(self, warm, cold):
        """A call that takes longer where the cache holds other memory."""
        self.calls += 1
        self.enqueue(cold if self.flushed else warm)
        self.flushed = False

    def flush(self):
        self.enqueue(1e-4)
        self.flushed = True


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "synchronize", gpu.synchronize)
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    properties = SimpleNamespace(L2_cache_size=50)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: gpu.now)
    memory = SimpleNamespace(zero_=gpu.flush)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: memory)
    return gpu


@pytest.mark.parametrize(("warm", "cold"), [(2e-4, 3e-4), (5e-5, 6e-5), (2e-2, 2.1e-2)])
def test_warm_cold_and_host(gpu, warm, cold):
    times = measured(lambda: gpu.run(warm, cold), torch.device("cuda"))
    assert times.p50 == pytest.approx(warm, rel=0.03)
    assert times.cold == pytest.approx(cold)
    assert times.host == pytest.approx(warm / 50)
    assert gpu.calls < timing.MOST_CALLS * timing.ROUNDS + 2 * timing.COLD_CALLS + 3


def test_a_long_call_is_made_a_few_times(gpu):
    measured(lambda: gpu.run(0.5, 0.5), torch.device("cuda"))
    assert gpu.calls == 2 + 3 * timing.FEW


def test_on_a_cpu():
    times = measured(lambda: time.sleep(0.002), torch.device("cpu"))
    assert 0.002 <= times.p20 <= times.p50 <= times.p80 < 0.1
    assert times.cold is times.host is None


def test_the_host_is_ahead_of_a_cold_call():
    assert num_flushes(host=10e-6, flush=50e-6) == 1
    assert num_flushes(host=120e-6, flush=50e-6) == 5
    assert num_flushes(host=1.0, flush=50e-6) == timing.MOST_FLUSHES


def test_quantiles_are_inside_what_was_measured():
    assert timing._quantiles([1.0, 2.0, 9.0]) == pytest.approx([1.2, 2.0, 7.6], rel=0.2)
    assert Times(*timing._quantiles([1.0] * 3)) == (1.0, 1.0, 1.0, None, None)


def test_work_of_the_products():
    """2,880 rows of 4,096 features: a triangle is half of what cuBLAS computes."""
    work = work_of("similarity", LLAVA_NEXT, BFLOAT16)
    assert work.flop == 2880 * 2881 * 4096
    assert product_flop(LLAVA_NEXT) == 2 * 2880**2 * 4096
    assert work.bytes == 2880 * 4096 * 2 + 2880 * 2881 // 2 * 4


def test_work_of_the_rounds_and_steps():
    first = 1440 * 1440  # src and dst; then 720 of src are gone, 1,080 + 1,080 are left
    second = 1080 * 1080  # 540 go, and 1,620 are left
    third = 810 * 810  # 180 of them go
    assert work_of("reduce_graph", LLAVA_NEXT, BFLOAT16).bytes == 4 * (first + second + third)
    steps = work_of("greedy_map", LLAVA_NEXT, BFLOAT16)
    assert steps == (322 * 1440 * 4, 322**2 * 1440)
    whole = work_of("selection", LLAVA_NEXT, BFLOAT16)
    assert whole.bytes == (2880 + 322) * 4096 * 2
    eight = Shape(2880, 4096, 0.11, 322, 8)
    assert work_of("selection", eight, BFLOAT16) == (8 * whole.bytes, 8 * whole.flop)


def test_a_pool_of_the_budget_leaves_no_choice():
    half = Shape(576, 256, 0.5, 288, 1)
    assert work_of("greedy_map", half, torch.float32) == (288 * 8, 0)
