"""Learning to compare pictures with text."""

import argparse

import numpy as np
import pytest
from PIL import Image

from vllm_script.benchmarks.photos import train_text_map
from vllm_script.benchmarks.photos.text_map import Sentences, TextMap
from vllm_script.benchmarks.photos.tower import load_tower
from vllm_script.benchmarks.photos.train_text_map import read_captions, train

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40)}


@pytest.fixture
def arguments(sentences, tower, tmp_path, monkeypatch):
    """Forty pictures that are red or green, and their captions."""
    monkeypatch.setattr(train_text_map, "BATCH", 10)
    monkeypatch.setattr(train_text_map, "EPOCHS", 60)
    monkeypatch.setattr(train_text_map, "CHUNK", 16)
    lines = ["image,caption"]
    for number in range(40):
        name = list(COLORS)[number % 2]
        noise = np.random.default_rng(number).integers(-30, 31, 3)
        color = tuple((np.array(COLORS[name]) + noise).tolist())
        Image.new("RGB", (16, 16), color).save(tmp_path / f"{number}.png")
        lines += [f'{number}.png,"a photo of {name} ."', f"{number}.png,{name}"]
    lines.append("gone.png,a photo")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    return argparse.Namespace(
        pictures=tmp_path, captions=tmp_path / "captions.csv", tower=tower, layer=None, size=16,
        sentences=sentences, limit=None, held_out=10, seed=0, threads=1,
        out=tmp_path / "map.safetensors",
    )  # fmt: skip


def test_colours_find_their_names(arguments, capsys):
    learned = train(arguments)
    text = Sentences(arguments.sentences)
    tokens = load_tower(arguments.tower, None, 16).tokens_of(
        Image.fromarray(np.repeat([[COLORS["red"], COLORS["green"]]], 2, 0).astype(np.uint8))
    )
    left = (np.arange(196) % 14) < 6
    loaded = TextMap.load(arguments.out)
    assert loaded.about == learned.about
    for name, sides in (("red", (left, ~left)), ("green", (~left, left))):
        relevance = loaded.relevance(tokens, text.embed([name])).numpy()
        assert relevance[sides[0]].mean() > relevance[sides[1]].mean() + 0.3
    assert "10 photographs, found by a caption among the first 1, 5, 10" in capsys.readouterr().out


def test_what_is_encoded_is_not_encoded_again(arguments, monkeypatch):
    first = train(arguments)
    monkeypatch.setattr(train_text_map.Sentences, "embed", None)
    again = train(arguments)
    assert (again.image == first.image).all()


def test_a_cache_of_something_else(arguments):
    train(arguments)
    arguments.size = 32
    with pytest.raises(ValueError, match="has results with size 16, not 32"):
        train(arguments)


def test_captions(arguments):
    names, captions = read_captions(arguments.captions, arguments.pictures)
    assert len(names) == 40 and captions["0.png"] == ["a photo of red .", "red"]
    with pytest.raises(ValueError, match="no photograph of"):
        read_captions(arguments.captions, arguments.pictures / "map.cache")


def test_too_few(arguments):
    arguments.held_out = 31
    with pytest.raises(ValueError, match="40 photographs are too few to hold out 31"):
        train(arguments)
