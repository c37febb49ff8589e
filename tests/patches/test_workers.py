"""The patches of the worker, on runners that stand in for vLLM's."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from vllm.v1.worker.gpu.mm.rope import RopeState

from vllm_script.patches import encoder_cache, position_channels

RUNNERS = {False: "vllm.v1.worker.gpu_model_runner", True: "vllm.v1.worker.gpu.model_runner"}


class Runner:
    """What the patches touch of a model runner."""

    def __init__(self, model):
        self.model, self.cleared = model, 0
        config = SimpleNamespace(is_multimodal_pruning_enabled=lambda: False)
        self.model_config = SimpleNamespace(multimodal_config=config)

    def get_model(self):
        return self.model

    def reset_encoder_cache(self):
        self.cleared += 1

    def _gather_mm_embeddings(self, scheduler_output, shift_computed_tokens=0):
        return scheduler_output, shift_computed_tokens, self.is_multimodal_pruning_enabled


@pytest.fixture
def runner_of(monkeypatch):
    """runner_of(v2) -> the class that stands where vLLM's is; each has methods of its own."""

    def runner_of(v2):
        own = type("Runner", (Runner,), {k: v for k, v in vars(Runner).items() if callable(v)})
        monkeypatch.setattr(importlib.import_module(RUNNERS[v2]), "GPUModelRunner", own)
        return own

    return runner_of


@pytest.mark.parametrize("v2", [False, True])
def test_the_model_is_told_that_encodings_are_forgotten(runner_of, v2):
    runner_class = runner_of(v2)
    config = SimpleNamespace(use_v2_model_runner=v2)
    encoder_cache.on_encoder_cache_reset(config, "forget")
    told = []
    runner = runner_class(SimpleNamespace(forget=lambda: told.append(True)))
    runner.reset_encoder_cache()
    assert (runner.cleared, told) == (1, [True])
    other = runner_class(SimpleNamespace())  # a model that has no such method
    other.reset_encoder_cache()
    assert other.cleared == 1


@pytest.mark.parametrize("v2", [False, True])
def test_a_runner_that_has_changed_is_one_line_and_stays_as_it_is(runner_of, v2):
    runner_class = runner_of(v2)
    runner_class.reset_encoder_cache = changed = lambda self, force: None
    config = SimpleNamespace(use_v2_model_runner=v2)
    with pytest.raises(RuntimeError, match=r"vLLM .*reset_encoder_cache takes \(force\)"):
        encoder_cache.on_encoder_cache_reset(config, "forget")
    assert runner_class.reset_encoder_cache is changed


def test_rows_are_asked_for_positions_where_the_model_has_them(runner_of):
    runner_class = runner_of(False)
    position_channels.ask_for_position_channels(SimpleNamespace(use_v2_model_runner=False))
    runner = runner_class(SimpleNamespace(supports_multimodal_pruning=True))
    assert runner._gather_mm_embeddings("step", 3) == ("step", 3, False)
    position_channels.expect_position_channels(runner.model_config.multimodal_config)
    assert runner._gather_mm_embeddings("step") == ("step", 0, True)
    runner.model = SimpleNamespace()
    assert runner._gather_mm_embeddings("step") == ("step", 0, False)


def test_model_runner_v2_asks_by_itself(runner_of):
    runner_class = runner_of(True)
    before = dict(vars(runner_class))
    position_channels.ask_for_position_channels(SimpleNamespace(use_v2_model_runner=True))
    assert vars(runner_class) == before


def test_a_delta_of_none_stays_in_model_runner_v2(runner_of):
    runner_of(True)
    position_channels.ask_for_position_channels(SimpleNamespace(use_v2_model_runner=True))
    state = SimpleNamespace(
        num_dims=3,
        prefill_positions=SimpleNamespace(gpu=torch.zeros(6, 9, dtype=torch.int32)),
        prefill_delta=SimpleNamespace(np=np.array([7, 5])),
    )
    for delta, expected in ((None, 5), (2, 2)):
        positions = torch.full((3, 4), expected)
        RopeState.update_prefill_positions(state, 1, positions, delta)
        assert torch.equal(state.prefill_positions.gpu[3:, :4].long(), positions)
        assert state.prefill_delta.np.tolist() == [7, expected]
