"""A stage stops at its deadline and goes on from its checkpoint to the same end."""

import time

import pytest
import torch

from vllm_script.benchmarks.demo_model.initialise import initialise
from vllm_script.benchmarks.demo_model.loader import Load, prepared
from vllm_script.benchmarks.demo_model.model import Demo
from vllm_script.benchmarks.demo_model.stage import PARTS, Tools
from vllm_script.benchmarks.demo_model.stages import STAGES
from vllm_script.benchmarks.demo_model.text import train_tokenizer
from vllm_script.benchmarks.training.checkpoint import (
    load_progress,
    load_stage,
    load_weights,
    weights_of,
)
from vllm_script.benchmarks.training.loop import Options, run_stage

SYMBOLS = next(order for order, stage in enumerate(STAGES) if stage.name == "symbols")


def train(demo, folder, deadline, progress):
    """Run six scenes of the symbols stage, two a step."""
    load = Load(batch=1, scale=6 / STAGES[SYMBOLS].scenes, workers=0, dev_scenes=2)
    stage = prepared(demo, Tools(train_tokenizer()), load, "cpu")[SYMBOLS]
    return run_stage(demo, PARTS, stage, Options(folder, "cpu", deadline), progress, later=0.0)


def test_stage_resumes(tmp_path):
    first = Demo()
    initialise(first, 0)
    start = {name: value.clone() for name, value in weights_of(first).items()}
    assert not train(first, tmp_path, 0.0, None)
    progress = load_progress(tmp_path)
    assert (progress["stage"], progress["done"]) == ("symbols", 2)
    second = Demo()
    load_weights(second, progress["model"])
    assert train(second, tmp_path, time.time() + 60, progress)
    third = Demo()
    load_stage(tmp_path, third, "symbols")
    for name, value in weights_of(third).items():
        torch.testing.assert_close(value, weights_of(second)[name])
        if name.startswith(PARTS["language"]):
            assert not torch.equal(value, start[name]), name
        elif not name.startswith(PARTS["projector"]):
            assert torch.equal(value, start[name]), name
    assert (tmp_path / "log.jsonl").read_text().count("symbols") >= 1


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="of another model"):
        load_weights(Demo(), {"clip.logit_scale": torch.tensor(0.0)})


def test_every_parameter_belongs_to_one_part():
    for name, _ in Demo().named_parameters():
        assert sum(name.startswith(prefixes) for prefixes in PARTS.values()) == 1, name
