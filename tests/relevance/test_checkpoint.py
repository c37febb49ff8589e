"""What is read of a CLIP checkpoint, and the name that its content gives it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vllm_script.relevance.checkpoint import clip_digest, read


@pytest.fixture(scope="module")
def clip(checkpoint):
    return checkpoint("llava-next") / "clip"


@pytest.fixture
def copy(clip, tmp_path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(clip, folder)
    return folder


def digest(folder):
    return read(str(folder)).digest


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_weights_that_relevance_reads(clip):
    everything = load_file(clip / "model.safetensors")
    weights = read(str(clip)).weights
    assert weights.keys() < everything.keys()
    assert all(torch.equal(weight, everything[name]) for name, weight in weights.items())
    assert {"visual_projection.weight", "text_projection.weight"} <= weights.keys()
    assert not any(name.startswith("vision_model.encoder") for name in weights)


def test_a_digest_is_the_same_wherever_the_checkpoint_is(clip, copy):
    assert digest(copy) == digest(clip) == clip_digest(str(clip))
    assert len(digest(clip)) == 64 and int(digest(clip), 16)


def test_a_digest_does_not_depend_on_the_format_of_the_files(clip, copy):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    names = sorted(weights)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: weights[name] for name in part}, copy / file, {"format": "pt"})
    index = {name: file for file, part in halves.items() for name in part}
    index_file = copy / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"weight_map": index}))
    assert digest(copy) == digest(clip)

    index_file.unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    assert digest(copy) == digest(clip)
    torch.save(weights, copy / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert digest(copy) == digest(clip)


def add_to(name):
    def change(folder):
        change_weights(folder, lambda weights: weights[name].view(-1)[-1].add_(0.5))

    return change


def change_polarity(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"patch_polarity": "positive"}))


@pytest.mark.parametrize(
    "change",
    [
        add_to("visual_projection.weight"),
        add_to("text_model.embeddings.token_embedding.weight"),
        add_to("vision_model.post_layernorm.bias"),
        change_polarity,
    ],
)
def test_another_content_is_another_digest(clip, copy, change):
    change(copy)
    assert digest(copy) != digest(clip)


def test_what_relevance_does_not_read_has_no_part_in_it(clip, copy):
    (copy / "tokenizer_config.json").unlink()
    add_to("vision_model.embeddings.patch_embedding.weight")(copy)
    assert digest(copy) == digest(clip)


def test_a_checkpoint_without_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"elsewhere cannot be read.*--script-clip-model"):
        read(str(copy))


def test_a_repository_that_is_not_in_the_cache():
    """HF_HUB_OFFLINE is set in the tests."""
    with pytest.raises(ValueError, match="openai/none-such cannot be read.*hub does not answer"):
        read("openai/none-such")
