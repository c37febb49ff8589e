"""Learn to compare a vision tower's pictures with text: two linear maps, from captions.

    python benchmarks/photos/train_text_map.py --pictures FOLDER --captions captions.csv \\
        --tower TOWER --sentences MINILM --out map.safetensors

Both towers stay as they are; what is learned brings the mean of a picture's tokens and the
embedding of its caption together, and apart from those of other pictures (InfoNCE). captions.csv
has the header `image,caption` and any number of lines for a picture, as Flickr8k's. A thousand
pictures are held out: how often one is found by its caption is printed and written into the map.
Features are kept in OUT.cache, so a run that was stopped goes on there.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from vllm_script.benchmarks.common import (
    check_same_run,
    ending_well,
    parser_of,
    read_lines,
    write_lines,
)
from vllm_script.benchmarks.photos.text_map import Sentences, TextMap
from vllm_script.benchmarks.photos.tower import load_tower

CHUNK = 256
"""Rows of features in a file of the cache."""
EPOCHS, BATCH, WIDTH = 30, 512, 384
RATE, DECAY, DROPOUT = 1e-3, 0.1, 0.3
FIRST_SCALE = 2.6
"""Logarithm of the scale of cosines at the beginning, near CLIP's."""


def main() -> None:
    with ending_well(ValueError, FileNotFoundError):
        train(parse_arguments())


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--captions", type=Path, required=True, help="file of image,caption")
    parser.add_argument("--tower", required=True, help="as for photo_bench.py")
    parser.add_argument("--layer", type=int, help="as for photo_bench.py")
    parser.add_argument("--size", type=int, help="as for photo_bench.py")
    parser.add_argument("--sentences", required=True, help="text tower that transformers loads")
    parser.add_argument("--limit", type=int, help="no more photographs than that")
    parser.add_argument("--held-out", type=int, default=1000, help="photographs not learned from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    return parser.parse_args()


def train(args: argparse.Namespace) -> TextMap:
    """Encode what is not in the cache, learn, examine, write."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    names, captions = read_captions(args.captions, args.pictures)
    order = random.Random(args.seed).sample(range(len(names)), len(names))[: args.limit]
    if args.held_out + BATCH > len(order):
        raise ValueError(
            f"{len(order)} photographs are too few to hold out {args.held_out} and learn from "
            f"{BATCH} at a time; take more, or a smaller --held-out"
        )
    about = {
        "tower": args.tower,
        "layer": str(args.layer),
        "size": str(args.size),
        "sentences": args.sentences,
        "photographs": str(len(order)),
        "seed": str(args.seed),
    }
    cache = args.out.with_suffix(".cache")
    cache.mkdir(parents=True, exist_ok=True)
    if before := read_lines(cache / "about.jsonl"):
        check_same_run(cache, before[0], about)
    write_lines(cache / "about.jsonl", [about])

    paths = [args.pictures / names[place] for place in order]
    texts = [text for place in order for text in captions[names[place]]]
    owners = torch.tensor([i for i, p in enumerate(order) for _ in captions[names[p]]])
    tower = load_tower(args.tower, args.layer, args.size)
    sentences = Sentences(args.sentences)
    images = _cached(
        cache / "images",
        paths,
        lambda some: torch.stack([tower.tokens_of(Image.open(path)).mean(0) for path in some]),
    )
    embeds = _cached(cache / "texts", texts, sentences.embed)
    learned = _learn(images, embeds, owners, args.held_out, args.seed)
    learned.about.update(about)
    for name, value in learned.about.items():
        print(f"{name}: {value}")
    learned.save(args.out)
    print(f"written to {args.out}")
    return learned


def read_captions(path: Path, pictures: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Names of the photographs that are there, sorted, and their captions.

    Raises:
        ValueError: no photograph has a caption.
    """
    captions: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            captions.setdefault(row["image"], []).append(row["caption"].strip())
    names = sorted(name for name in captions if (pictures / name).is_file())
    if not names:
        raise ValueError(f"no photograph of {path} is in {pictures}")
    return names, captions


def _cached(
    folder: Path, things: Sequence[Any], encode: Callable[[Sequence[Any]], torch.Tensor]
) -> torch.Tensor:
    """Features [n, D] of things, from files of CHUNK of them, which are written as they come."""
    folder.mkdir(exist_ok=True)
    parts = []
    for start in tqdm(range(0, len(things), CHUNK), desc=folder.name, mininterval=5):
        path = folder / f"{start:06}.pt"
        if not path.exists():
            draft = path.with_suffix(".part")
            torch.save(encode(things[start : start + CHUNK]), draft)
            draft.replace(path)
        parts.append(torch.load(path))
    return torch.cat(parts)


def _learn(
    images: torch.Tensor, embeds: torch.Tensor, owners: torch.Tensor, held_out: int, seed: int
) -> TextMap:
    """Learn the maps.

    Args:
        images: [P, D] of the photographs; the first `held_out` are only for the examination.
        embeds: [C, T] of the captions.
        owners: [C] the photograph of each caption.
    """
    own = [(owners == place).nonzero()[:, 0].tolist() for place in range(len(images))]
    mean, std = images[held_out:].mean(0), images[held_out:].std(0) + 1e-4
    to_images = nn.Linear(images.shape[1], WIDTH, bias=False)
    to_texts = nn.Linear(embeds.shape[1], WIDTH, bias=False)
    nn.init.eye_(to_texts.weight)
    scale = nn.Parameter(torch.tensor(FIRST_SCALE))
    drop = nn.Dropout(DROPOUT)
    optimizer = torch.optim.AdamW(
        [*to_images.parameters(), *to_texts.parameters(), scale], RATE, weight_decay=DECAY
    )
    batches = (len(images) - held_out) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * batches)
    chance = random.Random(seed)
    standard = (images - mean) / std
    for _ in tqdm(range(EPOCHS), desc="epochs", mininterval=5):
        shuffled = held_out + torch.randperm(len(images) - held_out)
        for some in shuffled[: batches * BATCH].split(BATCH):
            captions = [chance.choice(own[place]) for place in some.tolist()]
            left = functional.normalize(to_images(drop(standard[some])), dim=-1)
            right = functional.normalize(to_texts(drop(embeds[captions])), dim=-1)
            cosines, same = scale.exp() * left @ right.T, torch.arange(len(some))
            loss = functional.cross_entropy(cosines, same)
            loss = (loss + functional.cross_entropy(cosines.T, same)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    weights = to_images.weight.detach(), to_texts.weight.detach()
    learned = TextMap({}, mean, std, *weights)
    asked = owners < held_out
    learned.about["held out"] = _examine(learned, images[:held_out], embeds[asked], owners[asked])
    return learned


def _examine(
    learned: TextMap, images: torch.Tensor, embeds: torch.Tensor, owners: torch.Tensor
) -> str:
    """How often a photograph is among the first 1, 5, 10 that its caption is most like."""
    left = functional.normalize(learned.images(images), dim=-1)
    right = functional.normalize(embeds @ learned.text.T, dim=-1)
    cosines = right @ left.T
    better = (cosines > cosines.gather(1, owners[:, None])).sum(1)
    shares = ", ".join(f"{(better < first).float().mean():.3f}" for first in (1, 5, 10))
    return f"{len(images)} photographs, found by a caption among the first 1, 5, 10: {shares}"


if __name__ == "__main__":
    main()
