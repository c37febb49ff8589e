"""Training lowers the loss, stops and goes on, and writes what it has trained."""

import json
import time
from dataclasses import replace

import pytest
import torch

from vllm_script.benchmarks.photo_model import train
from vllm_script.benchmarks.photo_model.batches import IGNORED, Samples
from vllm_script.benchmarks.photo_model.checkpoint import export, read
from vllm_script.benchmarks.photo_model.forward import answer_logits, loss_of, measure
from vllm_script.benchmarks.photo_model.photographs import read as read_photographs
from vllm_script.benchmarks.photo_model.stages import PARTS, PLANS, Load, stages_of
from vllm_script.benchmarks.training.checkpoint import weights_of
from vllm_script.benchmarks.training.loop import Options, run

LOAD = Load(batch=8, scale=0.0, workers=0, dev_samples=8, seed=0)
"""One step a stage."""


def stages(model, processor, folder, load=LOAD):
    return stages_of(model, processor, read_photographs(folder / "data"), load, "cpu")


@torch.no_grad()
def dev_loss(stage):
    batches = stage.judges()
    return sum(float(stage.loss(batch)) for batch in batches) / len(batches)


@pytest.fixture
def model(start):
    return read(start)


def test_samples(folder, model):
    (_, joint) = stages(*model, folder)
    ((samples,),) = joint.batches(0, 1)
    assert isinstance(samples, Samples) and samples.pixels.shape == (8, 3, 56, 56)
    tokenizer = model[1].tokenizer
    image = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    for ids, mask, labels in zip(samples.ids, samples.mask, samples.labels, strict=True):
        assert (ids == image).sum() == 16
        length = mask.sum()
        answered = (labels != IGNORED).nonzero()[:, 0]
        assert answered[-1] == length - 1 and ids[answered[-1]] == tokenizer.eos_token_id
        assert torch.equal(labels[answered], ids[answered])
        before = tokenizer.decode(ids[: answered[0]])
        assert before.endswith("<|im_start|>assistant\n")
    ((again,),) = joint.batches(0, 1)
    assert torch.equal(again.ids, samples.ids) and torch.equal(again.pixels, samples.pixels)


@torch.no_grad()
def test_answer_logits_are_those_of_the_whole_model(folder, model):
    (_, joint) = stages(*model, folder)
    (batch,) = joint.batches(0, 1)
    model, _ = model
    logits, targets, sample = answer_logits(model, batch)
    (s,) = batch
    for index in range(len(s.ids)):
        length = s.mask[index].sum()
        whole = model(input_ids=s.ids[index : index + 1, :length], pixel_values=s.pixels[[index]])
        answer = s.labels[index, :length] != IGNORED
        expected = whole.logits[0, :-1][answer[1:]]
        torch.testing.assert_close(logits[sample == index], expected, atol=1e-4, rtol=1e-4)
        assert torch.equal(targets[sample == index], s.ids[index, :length][answer])


@torch.no_grad()
def test_a_word_weighs_as_much_as_a_sentence(folder, model):
    (_, joint) = stages(*model, folder)
    (batch,) = joint.batches(0, 1)
    logits, targets, sample = answer_logits(model[0], batch)
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    means = [each[sample == index].mean() for index in range(8)]
    assert loss_of(model[0], batch) == pytest.approx(float(sum(means) / 8), rel=1e-4)
    found = measure(model[0], batch)
    assert sum(len(values) for kind, values in found.items() if kind != "caption") > 0
    for kind, values in found.items():
        assert kind == "caption" or set(values) <= {0.0, 1.0}


def test_loss_falls(folder, model, tmp_path):
    """Both stages, 4 and 40 steps, on drawn pictures; random weights bear ten times the rates."""
    load = Load(batch=8, scale=320 / PLANS[1].samples, workers=0, dev_samples=32, seed=0)
    trained = [
        replace(stage, rates={part: 10 * rate for part, rate in stage.rates.items()})
        for stage in stages(*model, folder, load)
    ]
    before = dev_loss(trained[1])
    assert run(model[0], PARTS, trained, Options(tmp_path, "cpu"))
    assert dev_loss(trained[1]) < before / 2
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["stage"] == "joint"]
    assert len(losses) == 10 and losses[-1] < losses[0]


def test_stops_and_goes_on(folder, start, tmp_path):
    """Stopped after every step it ends where an unbroken run ends."""
    load = Load(batch=4, scale=8 / PLANS[1].samples, workers=0, dev_samples=4, seed=0)
    whole, processor = read(start)
    first = {name: value.clone() for name, value in weights_of(whole).items()}
    options = Options(tmp_path / "whole", "cpu")
    options.folder.mkdir()
    assert run(whole, PARTS, stages(whole, processor, folder, load), options)
    (tmp_path / "pieces").mkdir()
    for finished in (False, True):
        pieces, _ = read(start)
        deadline = time.time() + 600 if finished else 0.0
        options = Options(tmp_path / "pieces", "cpu", deadline)
        assert run(pieces, PARTS, stages(pieces, processor, folder, load), options) == finished
    for name, value in weights_of(pieces).items():
        torch.testing.assert_close(value, weights_of(whole)[name], atol=1e-3, rtol=1e-2)
        assert not torch.equal(value, first[name]), name


def test_other_settings_need_another_folder(tmp_path, start, monkeypatch):
    (tmp_path / "run.json").write_text(
        json.dumps({"start": str(start.resolve()), "batch": 8, "scale": 0.5, "seed": 0})
    )
    command = ["train.py", "--data", tmp_path, "--start", start, "--out", tmp_path]
    command += ["--device", "cpu", "--scale", 0.1]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    with pytest.raises(SystemExit, match="scale 0.5, not 0.1; choose another --out"):
        train.main()


def test_connector_learns_alone(folder, model, tmp_path):
    model, processor = model
    before = {name: value.clone() for name, value in weights_of(model).items()}
    connector = stages(model, processor, folder)[:1]
    assert run(model, PARTS, connector, Options(tmp_path, "cpu"))
    for name, value in weights_of(model).items():
        is_connector = name.startswith(PARTS["connector"])
        assert torch.equal(value, before[name]) != is_connector, name


def test_every_parameter_belongs_to_one_part(model):
    for name, _ in model[0].named_parameters():
        assert sum(name.startswith(prefixes) for prefixes in PARTS.values()) == 1, name


def test_export(model, start, tmp_path):
    model, _ = model
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    export(model, start, tmp_path / "model")
    again, processor = read(tmp_path / "model")
    for name, value in weights_of(again).items():
        assert torch.equal(value, weights_of(model)[name].bfloat16().float()), name
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        path.name for path in start.iterdir()
    }
    assert processor.image_seq_length == 16
