"""Explain's answer about a video, of every family that prunes any."""

import base64
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from vllm_script.config import ScriptConfig
from vllm_script.explain.explained import ExplainedItem
from vllm_script.explain.film import FRAME_WIDTH
from vllm_script.explain.shown import shown_item
from vllm_script.families import pruned_name
from vllm_script.layout import Layout
from vllm_script.plan import make_plan

FRAMES = np.full((4, 84, 168, 3), 200, np.uint8)
PLAN = make_plan(ScriptConfig(0.5, relevance="embedding"), (((1, 2),),))
BOXES = {
    "llava-onevision": [[0, 0, 84, 42], [84, 0, 168, 42], [0, 42, 84, 84], [84, 42, 168, 84]],
    "qwen2.5-vl": [[0, 0, 84, 42], [84, 0, 168, 42], [0, 42, 84, 84], [84, 42, 168, 84]],
    "internvl": [[0, 0, 84, 42], [84, 0, 168, 42], [0, 42, 84, 84], [84, 42, 168, 84]],
    # It sees the middle of a frame.
    "llava-next-video": [[42, 0, 84, 42], [84, 0, 126, 42], [42, 42, 84, 84], [84, 42, 126, 84]],
}


@pytest.fixture(params=BOXES)
def model_config(request, family_checkpoint):
    """The model's configuration, as plugin.py leaves it."""
    hf_config = AutoConfig.from_pretrained(family_checkpoint(request.param))
    hf_config.architectures = [pruned_name(hf_config.architectures[0])]
    return SimpleNamespace(hf_config=hf_config, vllm_script={}, name=request.param)


def opened(data):
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_video(model_config):
    layout = Layout(torch.arange(8), num_frames=2, columns=2)
    item = ExplainedItem("video", (FRAMES, {}), layout, PLAN, ["What?"], "conversation", 4)
    relevance = [0.0, 0.25, 0.5, 0.75, 1.0, 0.0, 0.0, 0.0]
    shown = shown_item(model_config, item, {"kept": [0, 5, 6, 7], "relevance": relevance})
    json.dumps(shown, allow_nan=False)
    assert (shown["width"], shown["height"], shown["num_frames"]) == (168, 84, 2)
    assert (shown["visual_tokens"], shown["kept"], shown["left_whole"]) == (8, 4, False)
    assert shown["kept_patches"] == [0, 5, 6, 7] and shown["patch_relevance"] == relevance
    (view,) = shown["views"]
    assert view["boxes"] == BOXES[model_config.name]
    assert [opened(frame).size for frame in shown["frames"]] == [(168, 84)] * 2
    film = opened(shown["webp"])
    assert (film.format, film.n_frames) == ("WEBP", 2)
    assert opened(shown["png"]).width > 2 * FRAME_WIDTH


@pytest.mark.parametrize("model_config", ["qwen2.5-vl"], indirect=True)
def test_a_video_whose_tower_is_thinned(model_config):
    """What the tower dropped has no relevance; every patch has its number and place."""
    layout = Layout(torch.arange(8), num_frames=2, columns=2)
    settings = ScriptConfig(0.25, relevance="embedding", tower_keep=0.5, tower_layer=0.25)
    plan = make_plan(settings, (((1, 2),),))
    item = ExplainedItem("video", (FRAMES, {}), layout, plan, ["What?"], "conversation", 2)
    selection = {"kept": [3, 5], "relevance": [0.0, 0.5, 1.0, 0.25], "candidates": [0, 3, 5, 6]}
    shown = shown_item(model_config, item, selection)
    assert (shown["tower_keep"], shown["tower_left"]) == (0.5, 4)
    assert shown["tower_patches"] == [0, 3, 5, 6]
    assert shown["kept_patches"] == [3, 5]
    assert shown["patch_relevance"] == [0.0, None, None, 0.5, None, 1.0, 0.25, None]
    more = ExplainedItem("video", (FRAMES, {}), layout, PLAN, ["What?"], "conversation", 4)
    whole = shown_item(model_config, more, {"kept": [0, 1, 2, 3], "relevance": [0.0] * 8})
    assert (whole["tower_keep"], whole["tower_left"]) == (1.0, None)
    assert whole["tower_patches"] is None


def test_a_video_that_is_left_whole(model_config):
    item = ExplainedItem("video", FRAMES, None, None, (), "none", 16)
    shown = shown_item(model_config, item, {})
    assert (shown["visual_tokens"], shown["kept"], shown["left_whole"]) == (16, 16, True)
    assert shown["kept_patches"] is shown["patch_relevance"] is None
    assert shown["views"] == [] and shown["num_frames"] == len(shown["frames"]) == 4


def test_frames_are_scaled_down(model_config):
    frames = np.zeros((2, 1080, 1920, 3), np.uint8)
    item = ExplainedItem("video", frames, None, None, (), "none", 16)
    shown = shown_item(model_config, item, {})
    assert (shown["width"], shown["height"]) == (1920, 1080)  # as the encoder has it
    assert [opened(frame).size for frame in shown["frames"]] == [(720, 405)] * 2
