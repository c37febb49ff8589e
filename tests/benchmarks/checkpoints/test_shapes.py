"""Random-weight models of known shapes."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlavaNextConfig, LlavaNextForConditionalGeneration

from vllm_script.benchmarks.checkpoints import SIZES, llava, parts

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
    llava.write_llava_next(out, SMALL)
    return out


def test_weights_have_published_names_and_one_type(folder):
    found = load_file(folder / "model.safetensors")
    config = LlavaNextConfig.from_pretrained(folder)
    with torch.device("meta"):
        state = LlavaNextForConditionalGeneration(config).state_dict()
    published = {parts.published_name(name): value.shape for name, value in state.items()}
    assert {name: value.shape for name, value in found.items()} == published
    assert {value.dtype for value in found.values()} == {config.dtype} == {torch.bfloat16}


def test_clip_has_the_tower_of_the_model(folder):
    tower, clip = (load_file(f / "model.safetensors") for f in (folder, folder / "clip"))
    shared = [name for name in clip if name.startswith("vision_model.encoder")]
    assert len(shared) == 5 * 16
    assert all(torch.equal(clip[name], tower[f"vision_tower.{name}"]) for name in shared)


def test_every_id_has_a_text(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 600
    assert all(tokenizer.decode([token_id]) for token_id in range(600))
