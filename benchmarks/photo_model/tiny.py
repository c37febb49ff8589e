"""Tiny parts with random weights and a few drawn pictures: to try every command in seconds.

    python benchmarks/photo_model/tiny.py OUT

writes OUT/dinov2, OUT/llama and OUT/data, in the layouts of the trained parts and the photographs.
A picture has a coloured square on its left or on its right, and says so in its captions.
"""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from vllm_script.benchmarks.checkpoints import parts
from vllm_script.benchmarks.common import ending_well, parser_of

COLORS = ("red", "green", "blue")
NAMES = ("dog", "car", "boat")
"""What the squares of these colours are called in the masks."""
SIDE = 56
CAPTIONS = 5
CAPTIONED, MASKED = 24, 12


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with ending_well(OSError):
        write_parts(args.out)
        write_data(args.out / "data")
        print(f"written to {args.out}")


def write_parts(folder: Path) -> None:
    """Write a DINOv2 of 84 pixels and three layers, and a Llama of two."""
    from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower: Any = Dinov2Model(
            Dinov2Config(
                hidden_size=64,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=84,
                mlp_ratio=2,
            )
        )
        parts.randomise(tower, gain=1.0)
        tower.save_pretrained(folder / "dinov2")
        llama = folder / "llama"
        llama.mkdir(parents=True, exist_ok=True)
        special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        size = parts.write_tokenizer(llama, special, "", eos=special[2], pad=special[0])
        sizes = parts.Sizes(parts.Stack(64, 128, 2, 2), parts.Stack(0, 0, 0, 0), 0, tied=True)
        config = LlamaConfig(**parts.text_sizes(size, sizes), eos_token_id=2, pad_token_id=0)
        model: Any = LlamaForCausalLM(config)
        parts.randomise(model, gain=1.0)
        model.save_pretrained(llama)


def write_data(folder: Path) -> None:
    """Draw pictures with captions, and others with masks in COCO's two formats."""
    rng = random.Random(0)
    pictures = folder / "flickr8k/images"
    pictures.mkdir(parents=True)
    with (folder / "flickr8k/captions.txt").open("w", newline="") as out:
        lines = csv.writer(out)
        lines.writerow(["image", "caption"])
        for number in range(CAPTIONED):
            index, side = draw(pictures / f"{number}.jpg", rng)
            caption = f"A {COLORS[index]} {NAMES[index]} on the {side} ."
            lines.writerows([[f"{number}.jpg", caption]] * CAPTIONS)
    for split in ("train2017", "val2017"):
        _write_masks(folder, split, rng)


def draw(path: Path, rng: random.Random) -> tuple[int, str]:
    """Draw a square; return the number of its colour, and its side."""
    index, side = rng.randrange(len(COLORS)), rng.choice(("left", "right"))
    picture = Image.new("RGB", (SIDE, SIDE), "grey")
    ImageDraw.Draw(picture).rectangle(box_of(side), COLORS[index])
    picture.save(path)
    return index, side


def box_of(side: str) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of a square on that side."""
    left = 4 if side == "left" else SIDE - 24
    return left, 18, left + 20, 38


def _write_masks(folder: Path, split: str, rng: random.Random) -> None:
    categories = [{"id": n, "name": name, "isthing": 1} for n, name in enumerate(NAMES)]
    panoptic, instances = folder / "coco128/images" / split, folder / "coco-mini" / split
    for pictures in (panoptic, instances):
        pictures.mkdir(parents=True)
        images, found = [], []
        for number in range(MASKED):
            name = f"{pictures.parent.name}-{number}.jpg"
            index, side = draw(pictures / name, rng)
            left, upper, right, lower = box_of(side)
            box = [left, upper, right - left, lower - upper]
            thing: dict[str, Any] = {"category_id": index, "bbox": box, "iscrowd": 0}
            thing["area"] = box[2] * box[3]
            images.append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
            if pictures is panoptic:
                found.append({"image_id": number, "segments_info": [thing]})
            else:
                found.append(thing | {"image_id": number})
        content = {"images": images, "annotations": found, "categories": categories}
        path = folder / "coco-mini/annotations" / f"instances_{split}.json"
        if pictures is panoptic:
            path = folder / f"coco128/panoptic_segmentation/annotations/panoptic_{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
