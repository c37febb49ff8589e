"""Reading photographs and their truth."""

import numpy as np
import pytest

from vllm_script.benchmarks.photos.folder import read_folder, spoken


def test_panoptic_comes_before_instances(photos):
    assert list(photos) == list(range(13))
    assert [photo.id for photo in photos.values() if not photo.is_panoptic] == [12]
    assert [s.category for s in photos[0].segments] == ["sky", "grass", "ball", "ball", "kite"]
    assert [s.is_thing for s in photos[0].segments] == [False, False, True, True, True]


def test_numbers_of_masks_are_read(photos):
    mask = photos[0].mask()
    assert {s.number for s in photos[0].segments} == set(np.unique(mask).tolist())
    assert (mask == 900_000).sum() == (14 * 7 - 6) * 64  # sky without the kite
    assert mask[70, 20] == 500


def test_polygons_are_drawn(photos):
    mask = photos[12].mask()
    assert [s.number for s in photos[12].segments] == [1]
    assert set(np.unique(mask)) == {0, 1}
    assert (mask[64:96, 16:48] == 1).all() and (mask == 1).sum() == 32 * 32


def test_who_may_be_shown(photos):
    assert [photo.id for photo in photos.values() if photo.is_free] == [0, 3, 6, 9, 12]
    assert photos[3].credit == "http://example.com/3"
    assert photos[3].licence.endswith("/by/2.0/")


@pytest.mark.parametrize(
    "name, said",
    [
        ("wall-other-merged", "wall"),
        ("door-stuff", "door"),
        ("traffic light", "traffic light"),
        ("wall-brick", "wall brick"),
    ],
)
def test_spoken(name, said):
    assert spoken(name) == said


def test_a_folder_without_truth(tmp_path):
    with pytest.raises(ValueError, match="has no photographs with a panoptic_"):
        read_folder(tmp_path)


def test_a_missing_mask(folder, tmp_path):
    for name in ("val2017/000000000001.jpg", "annotations/panoptic_val2017.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ValueError, match="000000000001.png, which is not there"):
        read_folder(tmp_path)
