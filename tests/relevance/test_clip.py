"""CLIP's weights through everything that vLLM does to a model's weights, with vLLM's own code."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
    layerwise,
    record_metadata_for_reloading,
)
from vllm.v1.worker.gpu_worker import Worker

from vllm_script.relevance.checkpoint import read
from vllm_script.relevance.clip import ClipRelevance

QUERY = (((5, 20, 21, 6),),)


@pytest.fixture(scope="module")
def folder(checkpoint):
    return checkpoint("llava-next") / "clip"


def clip_of(folder, dtype=torch.float32, device="cpu"):
    weights = read(str(folder)).weights
    return ClipRelevance(AutoConfig.from_pretrained(folder), weights, dtype, device)


class Model(torch.nn.Module):
    """A model with a layer of its own beside CLIP."""

    def __init__(self, folder):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4, bias=False)
        self.script_clip = clip_of(folder)

    def load_weights(self, weights):
        for name, weight in weights:
            parameter = self.get_parameter(name)
            getattr(parameter, "weight_loader", lambda p, w: p.data.copy_(w))(parameter, weight)


@pytest.fixture
def model(folder):
    model = Model(folder)
    record_metadata_for_reloading(model)
    return model


@torch.no_grad()
def scores(clip):
    width = clip.post_layernorm.normalized_shape[0]
    states = torch.randn(9, width, generator=torch.Generator().manual_seed(0))
    clip._text_embeds.clear()
    return clip(states.to(clip.visual_projection.weight.dtype), QUERY)


@pytest.fixture(scope="module")
def expected(folder):
    return scores(clip_of(folder))


def test_weights_are_those_of_the_checkpoint(folder):
    clip = clip_of(folder)
    published = read(str(folder)).weights
    assert torch.equal(clip.visual_projection.weight, published["visual_projection.weight"])
    ours = clip.text.text_model.embeddings.token_embedding.weight
    assert torch.equal(ours, published["text_model.embeddings.token_embedding.weight"])
    assert torch.equal(clip.post_layernorm.bias, published["vision_model.post_layernorm.bias"])


def test_no_loader_has_anything_to_do_with_them(model):
    assert {name for name, _ in model.named_parameters()} == {"layer.weight"}
    assert model.state_dict().keys() == {"layer.weight"}  # what sharded_state saves and reads
    loader = DefaultModelLoader(LoadConfig())
    loader.track_weights_loading(model, {"layer.weight"})  # raises for what is missing


def test_dummy_weights_are_for_the_others(model, expected):
    before = model.layer.weight.clone()
    get_model_loader(LoadConfig(load_format="dummy")).load_weights(model, None)
    assert not torch.equal(model.layer.weight, before)
    model.script_clip.check()
    assert torch.equal(scores(model.script_clip), expected)


def forget_everything(model):
    """What memory holds when sleep level 2 has given it away and taken it again."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)


def sleep_and_wake(model, monkeypatch):
    """vLLM's worker at sleep level 2, its memory lost in between."""
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: None)
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda: (0, 0))
    backend = SimpleNamespace(
        suspend=lambda level: forget_everything(model), resume=lambda tags: None
    )
    config = SimpleNamespace(enable_nccl_comm_suspend=False, sleep_preserve_parameter_names=None)
    worker = SimpleNamespace(
        model_runner=SimpleNamespace(model=model),
        model_config=config,
        vllm_config=SimpleNamespace(model_config=config),
        sleep_mode_backend=backend,
        get_draft_model=lambda: None,
        synchronize_device=lambda: None,
        _sleep_saved_draft_buffers={},
    )
    worker._save_sleep_parameters = lambda model: Worker._save_sleep_parameters(worker, model)
    Worker.sleep(worker, level=2)
    Worker.wake_up(worker)


def update(model, weights):
    """A reload, or a weight update of a trainer, that brings these weights alone."""
    initialize_layerwise_reload(model)
    model.load_weights(weights)
    finalize_layerwise_reload(model, SimpleNamespace(dtype=torch.float32))


@pytest.mark.parametrize("sleeps", [False, True])
@pytest.mark.parametrize("brought", [["layer.weight"], []])
def test_after_a_reload_they_are_as_before(model, expected, monkeypatch, brought, sleeps):
    warned = []
    monkeypatch.setattr(layerwise.logger, "warning", lambda text, *args: warned.append(text % args))
    if sleeps:
        sleep_and_wake(model, monkeypatch)
        assert model.layer.weight.isnan().all()
    update(model, [(name, torch.ones(4, 4)) for name in brought])
    if brought:
        assert torch.equal(model.layer.weight, torch.ones(4, 4))
    model.script_clip.check()
    assert torch.equal(scores(model.script_clip), expected)
    assert warned == ([] if brought else ["Linear: Failed to load weights"])  # that of the model


def test_awake_again_they_can_be_used_before_weights_come(model, expected, monkeypatch):
    sleep_and_wake(model, monkeypatch)
    model.script_clip.check()
    assert torch.equal(scores(model.script_clip), expected)


def test_a_loader_that_makes_models_without_memory(folder, expected):
    """As `ipc_cache` does: what it does not bring stays on the meta device."""
    with torch.device("meta"):
        clip = clip_of(folder)
    assert torch.equal(scores(clip), expected)


def test_a_loader_that_brings_those_of_another_clip(model):
    with torch.no_grad():
        model.script_clip.visual_projection.weight[0, 0] += 1
    with pytest.raises(RuntimeError, match=r"not those of its checkpoint.*--load-format"):
        model.script_clip.check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("named", ["float32", "bfloat16", None])
def test_a_configuration_that_names_another_dtype(folder, tmp_path, named, dtype):
    copy = tmp_path / "clip"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["dtype"] = named
    (copy / "config.json").write_text(json.dumps(config))
    clip = clip_of(copy, dtype)
    assert {each.dtype for each in clip.buffers() if each.is_floating_point()} == {dtype}
    assert torch.equal(scores(clip), scores(clip_of(folder, dtype)))


@pytest.mark.parametrize("change", ["missing", "another shape"])
def test_a_checkpoint_that_is_not_whole(folder, change):
    weights = read(str(folder)).weights
    wrong = weights.pop("text_projection.weight")
    if change == "another shape":
        weights["text_projection.weight"] = wrong[:-1]
    config = AutoConfig.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"lacks 1 of \d+ weights.*text_projection.weight"):
        ClipRelevance(config, weights, torch.float32, "cpu")


@torch.no_grad()
def test_what_one_of_several_questions_asks_for_is_relevant(folder):
    clip = clip_of(folder)
    clip = clip_of(folder)
    states = torch.randn(9, clip.post_layernorm.normalized_shape[0])
    one, other = ((5, 20, 21, 6),), ((5, 40, 6), (5, 41, 6))
    alone = [clip(states, (question,)) for question in (one, other)]
    assert torch.equal(clip(states, (one, other)), torch.maximum(*alone))
