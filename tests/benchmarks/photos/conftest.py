"""A drawn folder in COCO's formats, and a tower that sees mean colours."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from vllm_script.benchmarks.photos.folder import read_folder
from vllm_script.benchmarks.photos.tower import Tower

torch.set_num_threads(1)

CATEGORIES = [
    {"id": 1, "name": "ball", "isthing": 1},
    {"id": 2, "name": "kite", "isthing": 1},
    {"id": 187, "name": "sky-other-merged", "isthing": 0},
    {"id": 193, "name": "grass-merged", "isthing": 0},
]
LICENCES = [
    {"id": 1, "url": "http://creativecommons.org/licenses/by-nc/2.0/"},
    {"id": 4, "url": "http://creativecommons.org/licenses/by/2.0/"},
]
COLORS = {1: (230, 30, 30), 2: (240, 220, 40), 187: (90, 150, 230), 193: (40, 150, 60)}
SIDE, CELL = 112, 8
"""Photographs of 14x14 cells of 8 pixels."""


def cells(left, top, right, bottom):
    """A rectangle in cells, as slices of pixels."""
    return slice(top * CELL, bottom * CELL), slice(left * CELL, right * CELL)


def scene(kite):
    """Category and segment number of each rectangle, in the order in which they are drawn."""
    found = [
        (187, 900_000, cells(0, 0, 14, 7)),
        (193, 70_000, cells(0, 7, 14, 14)),
        (1, 500, cells(2, 8, 6, 12)),
        (1, 501, cells(10, 9, 12, 11)),
    ]
    return [*found, (2, 502, cells(8, 2, 11, 4))] if kite else found


def write(folder, image_id, parts, licence):
    """One photograph with its mask; its entries of "images" and "annotations"."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    numbers = np.zeros((SIDE, SIDE), int)
    for category, number, place in parts:
        pixels[place], numbers[place] = COLORS[category], number
    noise = np.random.default_rng(image_id).integers(-8, 9, pixels.shape)
    drawn = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
    drawn.save(folder / "val2017" / f"{image_id:012}.jpg", quality=95)
    coded = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8)
    Image.fromarray(coded).save(folder / "annotations/panoptic_val2017" / f"{image_id:012}.png")
    image = {"id": image_id, "file_name": f"{image_id:012}.jpg", "license": licence}
    segments = [{"id": number, "category_id": category} for category, number, _ in parts]
    name = f"{image_id:012}.png"
    return (
        image | {"flickr_url": f"http://example.com/{image_id}"},
        {"image_id": image_id, "file_name": name, "segments_info": segments},
    )


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Twelve drawn photographs in COCO's layout: sky, grass, two balls, and in every second a kite.

    The first has a crowd of balls too. Photograph 12 has only instances.
    """
    root = tmp_path_factory.mktemp("coco")
    (root / "val2017").mkdir()
    (root / "annotations/panoptic_val2017").mkdir(parents=True)
    written = [write(root, i, scene(i % 2 == 0), (1, 4)[i % 3 == 0]) for i in range(13)]
    images, annotations = map(list, zip(*written, strict=True))
    crowd = {"id": 999, "category_id": 1, "iscrowd": 1}
    annotations[0]["segments_info"].append(crowd)
    content = {"licenses": LICENCES, "categories": CATEGORIES}
    panoptic = content | {"images": images[:12], "annotations": annotations[:12]}
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(panoptic))
    ball = {"category_id": 1, "iscrowd": 0, "area": 1024}
    ball["segmentation"] = [[16, 64, 47, 64, 47, 95, 16, 95]]
    instances = [ball | {"image_id": number, "id": number} for number in (0, 12)]
    content["categories"] = [{"id": 1, "name": "ball"}]
    content |= {"images": [images[0], images[12]], "annotations": instances}
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def photos(folder):
    """The drawn photographs, by number."""
    return {photo.id: photo for photo in read_folder(folder)}


def colours(layer, size):
    """A tower whose tokens are the mean colours of 14x14 cells, and a constant."""

    def encode(pixels):
        means = torch.nn.functional.adaptive_avg_pool2d(pixels - 0.4, 14)
        return torch.cat([means, torch.full_like(means[:, :1], 0.1)], 1).flatten(2).transpose(1, 2)

    return Tower(size or SIDE, encode)


@pytest.fixture
def tower(monkeypatch):
    """Name of a tower that sees mean colours."""
    import vllm_script.benchmarks.photos.tower as module

    monkeypatch.setattr(module, "colours", colours, raising=False)
    return f"{module.__name__}:colours"


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    """A text tower of random weights, 8 values wide, that tells a few words apart."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("sentences")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "red", "green", "."]
    numbers = {word: number for number, word in enumerate(words)}
    BertTokenizerFast(vocab=numbers).save_pretrained(folder)
    torch.manual_seed(0)
    shape = dict(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    return str(folder)
