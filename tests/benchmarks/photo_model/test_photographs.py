"""Captions and masks of both formats are read, and no photograph is in two splits."""

import re

import pytest

from vllm_script.benchmarks.photo_model import tiny
from vllm_script.benchmarks.photo_model.photographs import Thing, read


@pytest.fixture(scope="module")
def splits(folder):
    return read(folder / "data")


def test_splits_are_disjoint(splits):
    for of in ("captioned", "masked"):
        paths = [p.path for split in splits.values() for p in getattr(split, of)]
        assert len(paths) == len(set(paths))
    assert sum(len(split.captioned) for split in splits.values()) == tiny.CAPTIONED
    assert len(splits["test"].captioned) == tiny.CAPTIONED // 4
    assert {p.path.parts[-2] for p in splits["test"].masked} == {"val2017"}
    for split in ("train", "dev"):
        assert {p.path.parts[-2] for p in splits[split].masked} == {"train2017"}


def test_captions(splits):
    photograph = splits["train"].captioned[0]
    assert len(photograph.captions) == tiny.CAPTIONS and photograph.things is None
    assert re.fullmatch(
        "A (red dog|green car|blue boat) on the (left|right)", photograph.captions[0]
    )


def test_both_formats_of_masks(splits):
    folders = {photograph.path.parts[-3] for photograph in splits["test"].masked}
    assert folders == {"images", "coco-mini"}
    for photograph in splits["test"].masked:
        (thing,) = photograph.things
        left = thing.place < 0.5
        assert thing == Thing(thing.name, 400, (14 if left else 42) / 56, False)


def test_what_lacks_is_named(tmp_path):
    with pytest.raises(ValueError, match="0 captioned photographs and 0 . 0 with masks"):
        read(tmp_path)
