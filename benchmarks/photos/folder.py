"""Photographs and the truth about them: a folder in one of COCO's formats.

    panoptic_NAME.json, and beside it the folder panoptic_NAME of masks     things and stuff
    instances_NAME.json                                                     things alone

The files may lie anywhere below the folder, and so may the photographs: COCO's file names are
unique. Where a photograph has both, the panoptic format counts.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

FREE = re.compile(r"licenses/by/|/publicdomain/|flickr\.com/commons|usa\.gov")
"""Licences under which a photograph may be shown with credit: CC BY, or no known restrictions."""


@dataclass(frozen=True)
class Segment:
    """One thing or one stretch of stuff in a photograph."""

    category: str
    """Name as people say it, such as "traffic light"."""
    is_thing: bool
    """Whether it can be counted; else it is stuff, such as sky."""
    number: int
    """Its value in the mask."""


@dataclass(frozen=True)
class Photo:
    """A photograph and what is in it."""

    id: int
    path: Path
    segments: tuple[Segment, ...]
    """Without crowds: a mask of many people says nothing about one."""
    is_panoptic: bool
    """Whether stuff is marked too."""
    licence: str
    """Address of the licence."""
    credit: str
    """Where the photograph comes from: its address."""
    _truth: Any
    """File of the panoptic mask, or the polygons of each segment."""

    @property
    def is_free(self) -> bool:
        """Whether it may be shown with credit."""
        return FREE.search(self.licence) is not None

    def mask(self) -> np.ndarray:
        """Number of the segment at each pixel, int64 [height, width]; other values are of none."""
        if self.is_panoptic:
            pixels = np.asarray(Image.open(self._truth).convert("RGB"), dtype=np.int64)
            numbers: np.ndarray = pixels @ np.array([1, 256, 65536])
            return numbers
        mask = Image.new("I", Image.open(self.path).size)
        pen = ImageDraw.Draw(mask)
        for segment, polygons in zip(self.segments, self._truth, strict=True):
            for polygon in polygons:
                pen.polygon(polygon, fill=segment.number)
        return np.asarray(mask, dtype=np.int64)


def chosen(
    folders: Sequence[Path], only: Path | None, without: Path | None, limit: int | None
) -> list[Photo]:
    """The photographs of a run, in an order of chance that is always the same.

    Args:
        folders: where one photograph is in several, the first of them has its truth.
        only, without: files with numbers of photographs, to take no others or none of them.
        limit: no more than that; None: all.

    Raises:
        ValueError: there are none.
    """
    found = {photo.id: photo for folder in reversed(folders) for photo in read_folder(folder)}
    photos = [found[number] for number in sorted(found)]
    random.Random(0).shuffle(photos)
    for file, inside in ((only, True), (without, False)):
        if file is not None:
            named = {int(number) for number in file.read_text(encoding="utf-8").split()}
            photos = [photo for photo in photos if (photo.id in named) == inside]
    if not photos:
        raise ValueError("--only and --without leave no photograph")
    return photos[:limit]


def read_folder(folder: Path) -> list[Photo]:
    """All photographs of a folder with their truth, by number.

    Raises:
        ValueError: there are none, or a mask is missing.
    """
    places = {path.name: path for path in sorted(folder.rglob("*.jpg"))}
    found: dict[int, Photo] = {}
    # "instances" before "panoptic", which takes its place.
    for file in sorted(folder.rglob("*.json"), key=lambda path: path.name):
        if file.stem.startswith(("instances_", "panoptic_")):
            found.update((photo.id, photo) for photo in _photos_of(file, places))
    if not found:
        raise ValueError(
            f"{folder} has no photographs with a panoptic_*.json or instances_*.json; "
            "name a folder in COCO's format"
        )
    return [found[number] for number in sorted(found)]


def _photos_of(file: Path, places: dict[str, Path]) -> Iterator[Photo]:
    """The photographs of one file of annotations that are there."""
    content = json.loads(file.read_text(encoding="utf-8"))
    categories = {each["id"]: each for each in content["categories"]}
    licences = {each["id"]: each["url"] for each in content.get("licenses", ())}
    annotations: dict[int, list[dict[str, Any]]] = {}
    for each in content["annotations"]:
        annotations.setdefault(each["image_id"], []).append(each)
    for image in content["images"]:
        path, own = places.get(image["file_name"]), annotations.get(image["id"])
        if path is None or not own:
            continue
        truth: Any
        if is_panoptic := "segments_info" in own[0]:
            truth = file.with_suffix("") / own[0]["file_name"]
            own = own[0]["segments_info"]
            if not truth.exists():
                raise ValueError(f"{file} names the mask {truth}, which is not there")
        else:
            # Small ones are drawn over large ones, as they mostly lie before them.
            own = sorted(own, key=lambda each: -each["area"])
        own = [each for each in own if not each.get("iscrowd")]
        if not is_panoptic:
            truth = [each["segmentation"] for each in own]
        segments = tuple(
            Segment(
                spoken(categories[each["category_id"]]["name"]),
                bool(categories[each["category_id"]].get("isthing", 1)),
                each["id"] if is_panoptic else place,
            )
            for place, each in enumerate(own, 1)
        )
        yield Photo(
            *(image["id"], path, segments, is_panoptic),
            licences.get(image.get("license"), "not known"),
            image.get("flickr_url") or image.get("coco_url") or "not known",
            truth,
        )


def spoken(name: str) -> str:
    """A category's name as people say it: "wall-other-merged" is a wall."""
    return re.sub(r"-(merged|other|stuff)\b", "", name).replace("-", " ")
