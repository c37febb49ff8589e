"""Durations that the worker measures, on a GPU that stands in for one."""

import pytest
import torch

from vllm_script.worker import timers
from vllm_script.worker.timers import Timers

BEHIND = 10


class Event:
    """A CUDA event of a GPU that is `BEHIND` items behind."""

    now, alive = 0, 0

    def __init__(self, enable_timing):
        assert enable_timing
        Event.alive += 1

    def __del__(self):
        Event.alive -= 1

    def record(self):
        self.at = Event.now + BEHIND

    def query(self):
        return Event.now >= self.at

    def elapsed_time(self, end):
        return 1000 * (end.at - self.at)


@pytest.fixture
def on_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "now", 0)
    monkeypatch.setattr(Event, "alive", 0)
    return Timers("cuda")


def test_what_is_not_finished_is_taken_later(on_gpu):
    for _ in range(3):
        with on_gpu.measure("selection"):
            pass
    assert on_gpu.take() == {}
    Event.now = BEHIND
    assert on_gpu.take() == {"selection": [0.0] * 3}
    assert on_gpu.take() == {}


def test_items_that_are_measured_together_share_the_time(on_gpu, monkeypatch):
    """So the number of durations is that of the items, and their sum is the time."""
    with on_gpu.measure("selection", 4):
        Event.now += 2
    Event.now += BEHIND
    assert on_gpu.take() == {"selection": [0.5] * 4}
    on_cpu, clock = Timers("cpu"), iter([10.0, 13.0, 13.0, 14.0])
    monkeypatch.setattr(timers.time, "perf_counter", lambda: next(clock))
    for num_items in 3, 2:
        with on_cpu.measure("selection", num_items):
            pass
    assert on_cpu.take() == {"selection": [1.0] * 3 + [0.5] * 2}


def test_events_of_finished_work_do_not_stay(on_gpu):
    """Nobody takes the durations."""
    for step in range(1000):
        Event.now = step
        with on_gpu.measure("encoder"):
            pass
        assert Event.alive <= 2 * BEHIND
    Event.now += BEHIND
    assert len(on_gpu.take()["encoder"]) == 1000
    assert Event.alive == 0


def test_durations_that_nobody_takes_are_bounded(monkeypatch):
    monkeypatch.setattr(timers, "MOST_KEPT", 5)
    on_cpu = Timers("cpu")
    for _ in range(9):
        with on_cpu.measure("encoder"):
            pass
    assert len(on_cpu.take()["encoder"]) == 5
