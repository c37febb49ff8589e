"""One thread, as in training; tiny parts and drawn pictures, and a model that is put together."""

import pytest
import torch

from vllm_script.benchmarks.photo_model import tiny
from vllm_script.benchmarks.photo_model.checkpoint import assemble
from vllm_script.benchmarks.photo_model.language import read_language
from vllm_script.benchmarks.photo_model.tower import read_tower

torch.set_num_threads(1)

LAYERS, SIDE = 2, 56


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Parts and pictures."""
    folder = tmp_path_factory.mktemp("photo_model")
    tiny.write_parts(folder)
    tiny.write_data(folder / "data")
    return folder


@pytest.fixture(scope="session")
def start(folder):
    """A model of these parts: 56 pixels, 16 visual tokens."""
    tower = read_tower(folder / "dinov2", LAYERS, SIDE)
    assemble(folder / "start", tower, *read_language(folder / "llama"), 1, seed=0)
    return folder / "start"
