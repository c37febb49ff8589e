"""Where relevance comes from, and what cannot be had."""

import shutil

import pytest
from transformers import AutoConfig

from vllm_script.config import ScriptConfig
from vllm_script.relevance.source import resolve


@pytest.fixture(scope="module")
def model(checkpoint):
    return checkpoint("llava-next")


@pytest.fixture(scope="module")
def bare_model(model, tmp_path_factory):
    """The same model without its CLIP."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("clip"))
    return folder


def resolved(folder, **settings):
    hf_config = AutoConfig.from_pretrained(folder)
    config = resolve(ScriptConfig.from_dict(settings), hf_config, str(folder))
    return config.relevance, config.clip_model


@pytest.mark.parametrize(
    "settings, relevance, loads_clip",
    [
        ({}, "clip", True),
        ({"relevance": "clip"}, "clip", True),
        ({"relevance": "embedding"}, "embedding", False),
        ({"relevance": "lm-attention"}, "lm-attention", False),
        ({"relevance": "none"}, "none", False),
    ],
)
def test_a_clip_beside_the_model_is_found(model, settings, relevance, loads_clip):
    assert resolved(model, **settings) == (relevance, str(model / "clip") if loads_clip else None)


def test_a_clip_that_is_named_is_loaded_for_requests_that_want_it(model, bare_model):
    clip = str(model / "clip")
    assert resolved(bare_model, clip_model=clip) == ("clip", clip)
    assert resolved(bare_model, relevance="none", clip_model=clip) == ("none", clip)


def test_without_a_clip_auto_is_none(bare_model):
    assert resolved(bare_model) == ("none", None)


def test_a_known_tower_whose_clip_is_out_of_reach_is_none(bare_model):
    """HF_HUB_OFFLINE is set in the tests, and nothing is in the cache."""
    hf_config = AutoConfig.from_pretrained(bare_model)
    hf_config.vision_config = AutoConfig.for_model(
        "clip_vision_model",
        **dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24),
        **dict(num_attention_heads=16, image_size=336, patch_size=14),
    )
    assert resolve(ScriptConfig(), hf_config, "some/repository").relevance == "none"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"relevance": "clip"}, ["--script-clip-model", "--script-relevance embedding"]),
        ({"clip_model": "/no/such/folder"}, ["/no/such/folder", "cannot be read"]),
    ],
)
def test_clip_that_cannot_be_had(bare_model, settings, words):
    with pytest.raises(ValueError) as error:
        resolved(bare_model, **settings)
    assert all(word in str(error.value) for word in words)


def test_clip_that_does_not_fit_the_tower(model, bare_model, tmp_path):
    config = AutoConfig.from_pretrained(model / "clip")
    config.vision_config.patch_size = 16
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not fit the vision tower: patch_size 16 instead of"):
        resolved(bare_model, clip_model=str(tmp_path))


def test_a_checkpoint_that_is_no_clip(model, bare_model):
    with pytest.raises(ValueError, match="got a llava_next checkpoint"):
        resolved(bare_model, clip_model=str(model))
