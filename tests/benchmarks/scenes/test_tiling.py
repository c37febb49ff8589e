"""Our tiles and rows are those of transformers' LLaVA-NeXT."""

import numpy as np
import pytest
import torch
from transformers import LlavaNextForConditionalGeneration

from vllm_script.benchmarks.demo_model.model import llava_config
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.benchmarks.scenes.scene import FORMATS, scene_of
from vllm_script.benchmarks.scenes.tiling import (
    NEWLINE,
    PATCHES,
    cut,
    image_processor_settings,
    patch_of,
    rows_of,
)

SIZES = sorted(
    {(height, width) for width, height, _ in FORMATS} | {(63, 100), (500, 120), (64, 64)}
)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cut_matches_image_processor(size):
    processing = pytest.importorskip(
        "transformers.models.llava_next.image_processing_pil_llava_next"
    )
    processor = processing.LlavaNextImageProcessorPil(**image_processor_settings())
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = processor(picture, return_tensors="np")
    tiles = cut(picture).transpose(0, 3, 1, 2) / 255 * 2 - 1
    np.testing.assert_allclose(tiles, expected["pixel_values"][0], atol=1e-6)
    assert tuple(expected["image_sizes"][0]) == size


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rows_match_pack_image_features(size):
    with torch.device("meta"):
        model = LlavaNextForConditionalGeneration(llava_config())
    tiles = len(cut(np.zeros((*size, 3), np.uint8)))
    features = torch.arange(tiles * PATCHES, dtype=torch.float32).reshape(tiles, PATCHES, 1)
    newline = torch.tensor([float(NEWLINE)])
    (packed,), _ = model.pack_image_features(
        [features], torch.tensor([size]), "default", image_newline=newline
    )
    assert packed[:, 0].long().tolist() == rows_of(*size).tolist()


def test_patch_of_shows_the_thing():
    for seed in range(20):
        scene = scene_of(seed)
        _, mask = draw(scene)
        tiles = cut(mask, smooth=False).reshape(-1, 14, 8, 14, 8).swapaxes(2, 3).reshape(-1, 64)
        for index, thing in enumerate(scene.things):
            if thing.name == "ring":
                continue
            for patch in patch_of(scene.height, scene.width, thing.x, thing.y):
                assert index + 1 in tiles[patch]
