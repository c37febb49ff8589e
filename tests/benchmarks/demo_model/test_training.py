"""A stage stops at its deadline and goes on from its checkpoint to the same end."""

import time

import pytest
import torch

from vllm_script.benchmarks.demo_model.checkpoint import (
    load_progress,
    load_stage,
    load_weights,
    weights_of,
)
from vllm_script.benchmarks.demo_model.initialise import initialise
from vllm_script.benchmarks.demo_model.loop import Options, run_stage
from vllm_script.benchmarks.demo_model.model import Demo
from vllm_script.benchmarks.demo_model.stage import PARTS, Tools
from vllm_script.benchmarks.demo_model.stages import STAGES
from vllm_script.benchmarks.demo_model.text import train_tokenizer

SYMBOLS = next(order for order, stage in enumerate(STAGES) if stage.name == "symbols")


@pytest.fixture
def options(tmp_path):
    scale = 6 / STAGES[SYMBOLS].scenes
    return Options(tmp_path, "cpu", batch=1, scale=scale, workers=0, dev_scenes=2)


def test_stage_resumes(options):
    tools = Tools(train_tokenizer())
    first = Demo()
    initialise(first, 0)
    start = {name: value.clone() for name, value in weights_of(first).items()}
    assert not run_stage(first, tools, SYMBOLS, options, 0.0, None)
    progress = load_progress(options.folder)
    assert (progress["stage"], progress["done"]) == ("symbols", 2)
    second = Demo()
    load_weights(second, progress["model"])
    assert run_stage(second, tools, SYMBOLS, options, time.time() + 60, progress)
    third = Demo()
    load_stage(options.folder, third, "symbols")
    for name, value in weights_of(third).items():
        torch.testing.assert_close(value, weights_of(second)[name])
        if name.startswith(PARTS["language"]):
            assert not torch.equal(value, start[name]), name
        elif not name.startswith(PARTS["projector"]):
            assert torch.equal(value, start[name]), name
    assert (options.folder / "log.jsonl").read_text().count("symbols") >= 1


def test_other_models_are_refused(options):
    with pytest.raises(ValueError, match="of another model"):
        load_weights(Demo(), {"clip.logit_scale": torch.tensor(0.0)})


def test_every_parameter_belongs_to_one_part():
    for name, _ in Demo().named_parameters():
        assert sum(name.startswith(prefixes) for prefixes in PARTS.values()) == 1, name
