"""Relevance of text, of the truth, and of the truth with noise."""

import pytest
import torch

from vllm_script.benchmarks.photos.relevance import load_text, relevances
from vllm_script.benchmarks.photos.text_map import Sentences, TextMap
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of

CLIP = f"{repository_of(SCRIPT_DEMO)}/clip"
INSIDE = torch.arange(400) < 100


def test_the_mask_is_relevant_inside_alone():
    mask = relevances(torch.zeros(400, 2), "dog", INSIDE, None, seed=0)["mask"]
    assert torch.equal(mask > 0.5, INSIDE)
    assert mask.min() > 0  # it keeps the least relevant selectable


@pytest.mark.parametrize("name, noise", [("mask + noise 1", 1), ("mask + noise 2", 2)])
def test_noise_is_in_units_of_the_mask(name, noise):
    found = relevances(torch.zeros(400, 2), "dog", INSIDE, None, seed=3)
    scores = found[name]
    gap = scores[INSIDE].mean() - scores[~INSIDE].mean()
    assert scores[~INSIDE].std() / gap == pytest.approx(noise, rel=0.35)
    again = relevances(torch.zeros(400, 2), "dog", INSIDE, None, seed=3)
    assert torch.equal(again[name], scores)
    assert not torch.equal(relevances(torch.zeros(400, 2), "", INSIDE, None, seed=4)[name], scores)


def test_a_clip_tower_has_text_of_its_own():
    """The same as the plugin's, whose sign the checkpoint says."""
    from transformers import AutoConfig

    from vllm_script.relevance.checkpoint import read
    from vllm_script.relevance.clip import ClipRelevance
    from vllm_script.relevance.windows import clip_windows

    tokens = torch.randn(9, 192)
    text = load_text(None, CLIP, None)
    clip = ClipRelevance(AutoConfig.from_pretrained(CLIP), read(CLIP).weights, torch.float32, "cpu")
    expected = clip(tokens, [clip_windows(CLIP, "a photo of a dog.")])
    found = relevances(tokens, "dog", torch.arange(9) < 3, text, seed=0)
    assert list(found) == [
        *("text", "text, wrong sign", "mask", "mask + noise 1", "mask + noise 2"),
    ]
    assert torch.equal(found["text"], expected)
    assert torch.equal(found["text, wrong sign"].argsort(), expected.argsort(descending=True))


def test_the_clip_of_another_tower():
    with pytest.raises(ValueError, match="has 192 values a patch, and the tower 8; name the CLIP"):
        load_text(CLIP, "eyes", None)(torch.zeros(4, 8), "dog")


def test_a_learned_map_by_hand():
    """Standardised and mapped, compared with the mapped sentences by cosine, rescaled."""
    learned = TextMap({}, torch.ones(3), torch.full((3,), 2.0), torch.eye(2, 3), torch.eye(2, 4))
    tokens = torch.tensor([[3.0, 3.0, 9.0], [3.0, -1.0, 9.0], [-1.0, -1.0, 9.0]])
    assert torch.equal(learned.images(tokens), torch.tensor([[1.0, 1], [1, -1], [-1, -1]]))
    sentences = torch.tensor([[1.0, 1.0, 5.0, 0.0]])
    assert learned.relevance(tokens, sentences) == pytest.approx([1, 0.5, 0], abs=1e-5)


def test_a_learned_map_in_a_file(sentences, tmp_path):
    about = {"tower": "eyes", "layer": "None", "sentences": sentences}
    path, tokens = tmp_path / "map.safetensors", torch.randn(9, 3)
    learned = TextMap(about, torch.ones(3), torch.ones(3), torch.randn(2, 3), torch.randn(2, 8))
    learned.save(path)
    assert TextMap.load(path).about == about
    texts = Sentences(sentences).embed(["a photo of a red.", "red"])
    expected = learned.relevance(tokens, texts)
    assert torch.equal(load_text(str(path), "eyes", None)(tokens, "red"), expected)
    with pytest.raises(ValueError, match="is of the tower eyes, --layer None"):
        load_text(str(path), "eyes", 9)


def test_mistakes(tmp_path, tower):
    assert load_text(None, tower, None) is None
    with pytest.raises(ValueError, match="is no file and no CLIP checkpoint"):
        load_text("nowhere", tower, None)
    (tmp_path / "map").write_text("not one")
    with pytest.raises(ValueError, match="is no map of train_text_map.py"):
        load_text(str(tmp_path / "map"), tower, None)
