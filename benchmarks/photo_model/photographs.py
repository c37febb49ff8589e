"""The photographs: whose captions, and which things in them, are known, and which are held out.

A folder of data has three folders, each as its source has it but for names; README.md says where
they come from. What is missing is left out.

    flickr8k/images/*.jpg, flickr8k/captions.txt
    coco128/images/SPLIT/*.jpg, coco128/panoptic_segmentation/annotations/panoptic_SPLIT.json
    coco-mini/SPLIT/*.jpg, coco-mini/annotations/instances_SPLIT.json

SPLIT is train2017 or val2017; of COCO, val2017 is held out.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

HELD_OUT, DEV = 1000, 200
"""Photographs of Flickr8k that are examined, and that a training is judged by."""
DEV_SHARE = 10
"""One of so many COCO photographs for training is there to judge it."""
COCO_SPLITS = ("train2017", "val2017")


class Thing(NamedTuple):
    """A thing in a photograph, as its mask has it."""

    name: str
    area: float
    """In pixels of the photograph."""
    place: float
    """Where the middle of its box is: 0 is the left edge, 1 the right."""
    crowd: bool
    """Whether it stands for several that were not told apart."""


@dataclass(frozen=True)
class Photograph:
    """A photograph and what is known of it."""

    path: Path
    captions: tuple[str, ...] = ()
    things: tuple[Thing, ...] | None = None
    """None where nobody has looked; an empty tuple where there are none."""


@dataclass(frozen=True)
class Split:
    """The photographs for one purpose."""

    captioned: list[Photograph]
    """Of Flickr8k."""
    masked: list[Photograph]
    """Of COCO."""


def read(folder: Path) -> dict[str, Split]:
    """Read all photographs, split into train, dev and test; the same split at every call.

    Raises:
        ValueError: there is not a single one of Flickr8k, or of COCO.
    """
    captioned = _flickr8k(folder / "flickr8k")
    masked: dict[str, dict[str, Photograph]] = {split: {} for split in COCO_SPLITS}
    for split, found in masked.items():  # by file name: a few are in both
        pictures = folder / "coco128/images" / split
        found |= _coco(folder / f"{PANOPTIC}_{split}.json", pictures)
        found |= _coco(folder / f"{INSTANCES}_{split}.json", folder / "coco-mini" / split)
    if not captioned or not all(masked.values()):
        raise ValueError(
            f"{folder} has {len(captioned)} captioned photographs and "
            f"{' + '.join(str(len(found)) for found in masked.values())} with masks (train + val); "
            "benchmarks/photo_model/README.md says where they come from"
        )
    random.Random(0).shuffle(captioned)
    held_out, dev = min(HELD_OUT, len(captioned) // 4), min(DEV, len(captioned) // 4)
    known, unseen = ([found[name] for name in sorted(found)] for found in masked.values())
    return {
        "test": Split(captioned[:held_out], unseen),
        "dev": Split(captioned[held_out : held_out + dev], known[::DEV_SHARE]),
        "train": Split(
            captioned[held_out + dev :],
            [photograph for n, photograph in enumerate(known) if n % DEV_SHARE],
        ),
    }


PANOPTIC = "coco128/panoptic_segmentation/annotations/panoptic"
INSTANCES = "coco-mini/annotations/instances"


def _flickr8k(folder: Path) -> list[Photograph]:
    """Photographs with their captions, by file name."""
    captions: dict[str, list[str]] = defaultdict(list)
    path = folder / "captions.txt"
    if path.exists():
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                captions[row["image"]].append(_tidy(row["caption"]))
    pictures = folder / "images"
    there = {path.name for path in pictures.iterdir()} if pictures.exists() else set()
    return [
        Photograph(pictures / name, tuple(captions[name])) for name in sorted(there & set(captions))
    ]


def _tidy(caption: str) -> str:
    """A caption as one writes a sentence, without its full stop."""
    words = " ".join(caption.replace('"', " ").split()).rstrip(" .")
    words = re.sub(r" (?=,|'s )", "", words)
    return words[:1].upper() + words[1:]


def _coco(annotations: Path, pictures: Path) -> dict[str, Photograph]:
    """Photographs with their things by file name, from a file of panoptic or of instance masks."""
    if not annotations.exists():
        return {}
    content = json.loads(annotations.read_text(encoding="utf-8"))
    names = {each["id"]: each["name"] for each in content["categories"] if each.get("isthing", 1)}
    segments: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for entry in content["annotations"]:
        segments[entry["image_id"]] += entry.get("segments_info", [entry])
    found = {}
    for image in content["images"]:
        path = pictures / image["file_name"]
        if path.exists():
            things = tuple(_things(segments[image["id"]], names, image["width"]))
            found[path.name] = Photograph(path, things=things)
    return found


def _things(
    segments: Iterable[dict[str, Any]], names: dict[int, str], width: int
) -> Iterable[Thing]:
    for segment in segments:
        if segment["category_id"] in names:
            left, _, across, _ = segment["bbox"]
            yield Thing(
                name=names[segment["category_id"]],
                area=segment["area"],
                place=(left + across / 2) / width,
                crowd=bool(segment["iscrowd"]),
            )
