"""Dense labels agree with the picture."""

import numpy as np
import pytest

from vllm_script.benchmarks.demo_model.labels import COLOR_INDEX, NAME_INDEX, NOTHING, labels_of
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.benchmarks.scenes.scene import scene_of
from vllm_script.benchmarks.scenes.tiling import GRID, PATCH, PATCHES, cut
from vllm_script.benchmarks.scenes.words import COLORS


@pytest.mark.parametrize("seed", range(8))
def test_labels_name_what_the_patches_show(seed):
    scene = scene_of(seed)
    picture, mask = draw(scene)
    labels = labels_of(scene, mask)
    palette = np.array(list(COLORS.values()))
    blocks = cut(picture).reshape(-1, GRID, PATCH, GRID, PATCH, 3).swapaxes(2, 3)
    shown = cut(mask, smooth=False).reshape(-1, GRID, PATCH, GRID, PATCH).swapaxes(2, 3)
    pixels, shown = blocks.reshape(-1, PATCH**2, 3), shown.reshape(-1, PATCH**2)
    full = np.flatnonzero((shown == shown[:, :1]).all(1) & (shown[:, 0] > 0))
    for patch in full:
        nearest = np.abs(palette - pixels[patch].mean(0)).sum(1).argmin()
        assert labels.color[patch] == nearest
    assert (labels.thing[(shown == 0).all(1) & (labels.centre == 0)] == NOTHING).all()


@pytest.mark.parametrize("seed", range(8))
def test_each_thing_has_a_centre_in_the_base_tile_and_one_beyond(seed):
    scene = scene_of(seed)
    labels = labels_of(scene, draw(scene)[1])
    in_base = np.arange(len(labels.thing)) < PATCHES
    for index, thing in enumerate(scene.things):
        centres = labels.centre.astype(bool) & (labels.thing == index)
        assert centres[in_base].sum() == 1
        assert centres[~in_base].sum() == 1
        assert (labels.color[centres] == COLOR_INDEX[thing.color]).all()
        assert (labels.name[centres] == NAME_INDEX[thing.name]).all()
    assert (labels.horizontal[~in_base] == NOTHING).all()
