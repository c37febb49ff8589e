"""The parts say in the model what they say alone."""

import pytest
import torch
from transformers import AutoTokenizer, Dinov2Model, InternVLVisionConfig, InternVLVisionModel

from vllm_script.benchmarks.photo_model.batches import prompt_of
from vllm_script.benchmarks.photo_model.checkpoint import assemble, read
from vllm_script.benchmarks.photo_model.language import read_language
from vllm_script.benchmarks.photo_model.tower import read_tower


@pytest.mark.parametrize("side", [84, 56, 112], ids=["own size", "smaller", "larger"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_tower_gives_the_states_of_dinov2(folder, layers, side):
    tower = read_tower(folder / "dinov2", layers, side)
    ours = InternVLVisionModel(InternVLVisionConfig(**tower.config)).eval()
    ours.load_state_dict(tower.weights)
    theirs = Dinov2Model.from_pretrained(folder / "dinov2").eval()
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        found = ours(pixels).last_hidden_state
        expected = theirs(pixels, output_hidden_states=True).hidden_states[layers]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_refused_towers(folder):
    with pytest.raises(ValueError, match="--layers must be 1 to 3, got 4"):
        read_tower(folder / "dinov2", 4, 56)
    with pytest.raises(ValueError, match="60 pixels are no multiple of patches of 14"):
        read_tower(folder / "dinov2", 3, 60)


def test_refused_language_models(folder):
    with pytest.raises(FileNotFoundError, match="model.gguf does not exist"):
        read_language(folder / "model.gguf")
    with pytest.raises(ValueError, match="is a dinov2, not a Llama"):
        read_language(folder / "dinov2")


@torch.no_grad()
def test_language_model_says_what_it_did(folder, start):
    alone, _ = read_language(folder / "llama")
    model, processor = read(start)
    ids = processor.tokenizer("What is shown in this picture?", return_tensors="pt").input_ids
    found, expected = model(input_ids=ids).logits, alone(ids).logits
    known = alone.config.vocab_size  # behind it are the tokens of images
    assert found.shape[-1] == known + 4
    torch.testing.assert_close(found[..., :known], expected, atol=0.05, rtol=0.05)  # bfloat16


def test_visual_tokens(folder, start, tmp_path):
    """A token a patch, or four patches a token."""
    whole, processor = read(start)
    assemble(tmp_path, read_tower(folder / "dinov2", 2, 56), *read_language(folder / "llama"), 4, 0)
    fourth, _ = read(tmp_path)
    pixels = torch.randn(1, 3, 56, 56)
    numbers = [m.model.get_image_features(pixels).pooler_output.shape for m in (whole, fourth)]
    assert numbers == [(1, 16, 64), (1, 4, 64)]
    assert [m.config.image_seq_length for m in (whole, fourth)] == [16, 4]
    width = (whole, fourth)[1].model.multi_modal_projector.linear_1.in_features
    assert width == 4 * 64
    assert processor.image_seq_length == 16


def test_visual_tokens_are_as_long_as_words(start):
    model, _ = read(start)
    with torch.no_grad():
        rows = model.model.get_image_features(torch.randn(4, 3, 56, 56)).pooler_output
    words = model.get_input_embeddings().weight.std()
    assert 0.5 < rows.std() / words < 2


def test_tokenizer(start):
    tokenizer = AutoTokenizer.from_pretrained(start)
    text = prompt_of("What is shown?", tokenizer)
    assert text == (
        "<|im_start|>user\n<IMG_CONTEXT>\nWhat is shown?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text).input_ids
    assert ids.count(tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")) == 1
    assert tokenizer.eos_token == "<|im_end|>"
