"""Checkpoints by name, and what `write` promises of all of them."""

import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from vllm_script.benchmarks import checkpoints
from vllm_script.benchmarks.checkpoints import FAMILY_MODELS, WRITERS, write, written
from vllm_script.families import FAMILIES

from ...mistral import architecture


@pytest.mark.parametrize("family", [name for name in FAMILY_MODELS if name != "llava-next"])
def test_families_are_large_enough_for_timing(family, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MODELS", tmp_path)
    folder = tmp_path / FAMILY_MODELS[family]
    assert written(FAMILY_MODELS[family]) == str(folder) and not list(tmp_path.glob("*.part"))
    sizes = {"language": 0, "tower": 0}
    with safe_open(folder / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 (it is no mapping)
            language = "language_model" in name or name.startswith("lm_head")
            size = math.prod(weights.get_slice(name).get_shape())
            sizes["language" if language else "tower"] += size
    assert sizes["language"] == pytest.approx(20e6, rel=0.2)
    assert 0.03 < sizes["tower"] / sizes["language"] < 0.15


def test_other_names_are_left_alone(tmp_path):
    assert written("some/repository") == "some/repository"
    assert written(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize("family", WRITERS)
def test_weights_follow_from_the_seed(family, tmp_path, checkpoint):
    before = torch.random.get_rng_state()
    write(tmp_path / "same", family)
    write(tmp_path / "other", family, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    first, same, other = (
        load_file(next(folder.glob("*.safetensors")))
        for folder in (checkpoint(family), tmp_path / "same", tmp_path / "other")
    )
    assert first.keys() == same.keys() == other.keys()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert architecture(tmp_path / "same") in FAMILIES


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="llava-1.5 has no sizes cpu-20m; it has tiny"):
        write(tmp_path / "model", "llava-1.5", "cpu-20m")
    (tmp_path / "note").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty; choose another"):
        write(tmp_path, "llava-1.5")
