"""Random-weight models of known shapes."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from vllm_script.benchmarks.checkpoints import SIZES, llava, parts, qwen_vl

QWEN_3B = SIZES["qwen2.5-vl"]["qwen2.5-vl-3b"]
CPU_108M = SIZES["llava-next"]["cpu-108m"]
SMALL = replace(
    CPU_108M,
    language=parts.Stack(64, 128, 2, 2),
    vision=parts.Stack(32, 64, 4, 2),
    vocabulary=600,
    clip=replace(CPU_108M.clip, text=parts.Stack(32, 64, 4, 2), projection=32),
)


@pytest.mark.parametrize(
    ("shape", "language_model", "tower"),
    [("cpu-108m", 108e6, 3e6), ("llava-next-7b", 6.74e9, 304e6)],
)
def test_number_of_parameters(shape, language_model, tower):
    sizes = SIZES["llava-next"][shape]
    with torch.device("meta"):
        config = LlavaNextConfig(**llava.llava_arguments(sizes.vocabulary, sizes))
        model = LlavaNextForConditionalGeneration(config)
    sizes = {"language_model": 0, "lm_head": 0, "vision_tower": 0}
    for name, parameter in model.named_parameters():
        part = name.removeprefix("model.").split(".")[0]
        sizes[part] = sizes.get(part, 0) + parameter.numel()
    assert sizes["language_model"] + sizes["lm_head"] == pytest.approx(language_model, rel=0.005)
    assert sizes["vision_tower"] == pytest.approx(tower, rel=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "FILE_BYTES", 200_000)
        llava.write_llava_next(out, 0, SMALL)
    return out


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A small Qwen2.5-VL, written as that of 3 billion parameters is."""
    out = tmp_path_factory.mktemp("qwen")
    language, vision = parts.Stack(256, 512, 2, 4), parts.Stack(64, 128, 17, 2)
    qwen_vl.write_qwen2_5_vl(
        out, 0, replace(QWEN_3B, language=language, vision=vision, vocabulary=600)
    )
    return out


def test_qwen_of_3_billion_parameters(tmp_path, monkeypatch):
    """Every tensor of the published checkpoint: its parameters are as many to the last."""
    models = []
    monkeypatch.setattr(parts, "stream_model", lambda folder, model: models.append(model))
    qwen_vl.write_qwen2_5_vl(tmp_path, 0, QWEN_3B)
    (model,) = models
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_754_622_976
    config = model.config
    assert config.text_config.num_key_value_heads == 2
    assert config.text_config.rope_parameters["mrope_section"] == [16, 24, 24]
    assert config.vision_config.fullatt_block_indexes == [7, 15, 23, 31]
    image = json.loads((tmp_path / "preprocessor_config.json").read_text())["size"]
    assert image == {"shortest_edge": 3136, "longest_edge": 12_845_056}


def test_a_streamed_qwen_has_all_weights_but_those_that_are_tied(qwen):
    config = Qwen2_5_VLConfig.from_pretrained(qwen)
    model, about = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        qwen, config=config, output_loading_info=True
    )
    assert not any(about[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert "lm_head.weight" not in weights(qwen)
    table = model.model.language_model.embed_tokens.weight
    assert model.lm_head.weight is table and len(table) == 600
    assert config.vision_config.fullatt_block_indexes == [7, 15]


def weights(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= {name: (path.name, value) for name, value in load_file(path).items()}
    return found


def test_files_are_indexed_and_have_published_names(folder):
    found = weights(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file for name, (file, _) in found.items()}
    assert len(set(index["weight_map"].values())) > 2
    config = LlavaNextConfig.from_pretrained(folder)
    with torch.device("meta"):
        state = LlavaNextForConditionalGeneration(config).state_dict()
    published = {parts.published_name(name): value.shape for name, value in state.items()}
    assert {name: value.shape for name, (_, value) in found.items()} == published


def test_weights_are_functions_of_their_names(folder, tmp_path):
    llava.write_llava_next(tmp_path, 1, SMALL)
    again = weights(tmp_path)
    for name, (_, value) in weights(folder).items():
        assert value.dtype == torch.bfloat16 and torch.equal(value, again[name][1])


def test_clip_has_the_tower_of_the_model(folder):
    tower, clip = weights(folder), weights(folder / "clip")
    shared = [name for name in clip if name.startswith("vision_model.encoder")]
    assert len(shared) == 5 * 16
    for name in shared:
        assert torch.equal(clip[name][1], tower[f"vision_tower.{name}"][1])


def test_every_id_has_a_text(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 600
    assert all(tokenizer.decode([token_id]) for token_id in range(600))
