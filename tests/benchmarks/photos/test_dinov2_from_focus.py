"""Weights by transformers' names, from a pretended export: onnx is not among our packages."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from vllm_script.benchmarks.photos.dinov2_from_focus import convert, read_weights
from vllm_script.benchmarks.photos.tower import load_tower

CONFIG = dict(hidden_size=384, num_attention_heads=6, num_hidden_layers=12)


@pytest.fixture(scope="module")
def exported():
    """Weights of a random DINOv2-small by the names in a published checkpoint."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**CONFIG, image_size=518, patch_size=14))
    new = {
        "attention.q_proj": "attention.attention.query",
        "attention.k_proj": "attention.attention.key",
        "attention.v_proj": "attention.attention.value",
    }
    weights = {}
    for name, value in model.state_dict().items():
        for now, published in new.items():
            name = name.replace(now, published)
        weights[name] = value
    return weights


def graph(weights):
    """The graph of an export: matrices turned around and nameless, two nameless tables."""
    initializer, node = [], []
    for name, value in weights.items():
        if name == "embeddings.position_embeddings":
            initializer += [("onnx::1", value[:, :1]), ("onnx::2", value[:, 1:])]
        elif name.endswith(".weight") and value.dim() == 2:
            path, number = name.removesuffix("weight"), f"onnx::{len(initializer) + 10}"
            initializer.append((number, value.T))
            node.append(SimpleNamespace(op_type="MatMul", input=["x", number], output=[path]))
            sum_of = [f"backbone.{path}bias", path]
            node.append(SimpleNamespace(op_type="Add", input=sum_of, output=[f"{path}y"]))
        elif name != "embeddings.mask_token":
            initializer.append((f"backbone.{name}", value))
    found = [SimpleNamespace(name=name, array=value.numpy()) for name, value in initializer]
    return SimpleNamespace(initializer=found, node=node)


@pytest.fixture
def onnx(monkeypatch):
    """onnx(graph): what the file holds."""
    module, helper = ModuleType("onnx"), SimpleNamespace(to_array=lambda each: each.array)
    module.numpy_helper = helper
    monkeypatch.setitem(sys.modules, "onnx", module)

    def holds(content):
        module.load = lambda path: SimpleNamespace(graph=content)

    return holds


def test_all_weights_are_found(onnx, exported):
    onnx(graph(exported))
    found = read_weights("a file")
    assert found.keys() == exported.keys()
    same = exported.keys() - {"embeddings.mask_token"}
    assert all(torch.equal(found[name], exported[name]) for name in same)


def test_the_folder_is_a_tower(onnx, exported, tmp_path):
    from PIL import Image

    onnx(graph(exported))
    convert("a file", tmp_path)
    picture = Image.fromarray(np.zeros((20, 30, 3), np.uint8))
    assert load_tower(str(tmp_path), size=28).tokens_of(picture).shape == (4, 384)


def test_another_file(onnx, exported):
    onnx(graph({"layernorm.weight": exported["layernorm.weight"]}))
    with pytest.raises(ValueError, match="a file has no table of 1369 positions"):
        read_weights("a file")
