"""The language model's input embeddings, read from the checkpoint alone."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from vllm_script.worker.input_table import read_input_table

TABLE = torch.arange(40.0).reshape(10, 4)


def config(folder, hf_config=None, download_dir=None):
    text = SimpleNamespace(hidden_size=4)
    model_config = SimpleNamespace(
        model=str(folder),
        revision="r",
        hf_config=hf_config or SimpleNamespace(get_text_config=lambda: text),
        dtype=torch.bfloat16,
    )
    load_config = SimpleNamespace(download_dir=download_dir)
    return SimpleNamespace(model_config=model_config, load_config=load_config)


@pytest.mark.parametrize(
    "name",
    [
        "language_model.model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight",
        "language_model.model.tok_embeddings.weight",
    ],
)
def test_it_is_found_among_other_weights(tmp_path, name):
    save_file({"vision.weight": torch.ones(2, 4)}, tmp_path / "a.safetensors")
    others = {"audio.embed_tokens.weight": torch.ones(10, 8), "model.norm.weight": torch.ones(4)}
    save_file({name: TABLE, **others}, tmp_path / "b.safetensors")
    embed = read_input_table(config(tmp_path), torch.device("cpu"))
    rows = embed(torch.tensor([9, 0, 9]))
    assert rows.dtype == torch.bfloat16
    assert torch.equal(rows.float(), TABLE[[9, 0, 9]])


@pytest.mark.parametrize("also", [[], ["model-00001-of-00001.safetensors"]])
def test_weights_in_two_formats_are_read_once(tmp_path, also):
    for name in ["consolidated.safetensors", *also]:
        save_file({"tok_embeddings.weight": TABLE + len(name)}, tmp_path / name)
    embed = read_input_table(config(tmp_path), torch.device("cpu"))
    expected = (TABLE + len(name)).bfloat16()
    assert torch.equal(embed(torch.tensor([3])), expected[[3]])


def test_a_repository_is_fetched_to_where_vllm_keeps_its_own(tmp_path, monkeypatch):
    fetched = []

    def snapshot_download(name, **options):
        fetched.append((name, options))
        return tmp_path

    save_file({"a.embed_tokens.weight": TABLE}, tmp_path / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    read_input_table(config("some/model", download_dir="/weights"), torch.device("cpu"))
    options = {"revision": "r", "cache_dir": "/weights", "allow_patterns": ["*.safetensors"]}
    assert fetched == [("some/model", options)]


@pytest.mark.parametrize("names", [[], ["a.embed_tokens.weight", "b.embed_tokens.weight"]])
def test_none_or_several_are_an_error(tmp_path, names):
    save_file({"x": TABLE} | {n: TABLE.clone() for n in names}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=f"has {len(names)} tensors .*Hugging Face's format"):
        read_input_table(config(tmp_path), torch.device("cpu"))


@pytest.mark.parametrize("family", ["llava-next", "qwen2.5-vl", "internvl3.5", "gemma3"])
def test_families_checkpoints_have_one(family_checkpoint, family):
    from transformers import AutoConfig

    folder = family_checkpoint(family)
    hf_config = AutoConfig.from_pretrained(folder)
    embed = read_input_table(config(folder, hf_config), torch.device("cpu"))
    assert embed(torch.tensor([1])).shape == (1, hf_config.get_text_config().hidden_size)
