"""What selections keep of real photographs, against the truth about what is where in them.

    python benchmarks/photo_bench.py --photos FOLDER --tower openai/clip-vit-large-patch14-336
    python benchmarks/photo_bench.py --photos FOLDER --tower TOWER [--text CLIP_OR_MAP] [--layer 9]

FOLDER has photographs in COCO's panoptic format; its instances_*.json do too, for things alone. The
tower is one that transformers loads, or `module:function` of your own (photos/lite0.py is one).
Relevance is that of text ("a photo of a dog."), of the mask of what is asked for, and of the mask
with noise; the first needs a CLIP or a map of photos/train_text_map.py. Every photograph is asked
for each kind of thing in it. 95 % intervals are bootstrapped over photographs.

Writes a line for each photograph to OUT/photos.jsonl, then OUT/figures.jsonl, report.md, plot.png
and pictures/. Stopped at any time, it goes on where it was; with --limit or --only it reports on a
part.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from vllm_script import select_visual_tokens
from vllm_script.benchmarks.common import (
    bullets,
    check_same_run,
    ending_well,
    machine,
    parser_of,
    publish,
    read_lines,
    repeatable,
    write_lines,
)
from vllm_script.benchmarks.photos.folder import Photo, chosen
from vllm_script.benchmarks.photos.measures import measure
from vllm_script.benchmarks.photos.pictures import draw
from vllm_script.benchmarks.photos.relevance import TextRelevance, load_text, noisy, relevances
from vllm_script.benchmarks.photos.report import plot, report, tables
from vllm_script.benchmarks.photos.results import Results
from vllm_script.benchmarks.photos.text_map import TextMap
from vllm_script.benchmarks.photos.tower import Tower, load_tower
from vllm_script.benchmarks.photos.truth import askable

RATIOS = (0.5, 0.22, 0.11, 0.056)
DRAWN = ("script", "cdpruner", "gsp", "uniform")


def main() -> None:
    args = parse_arguments()
    with ending_well(ValueError, FileNotFoundError):
        run(args)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument(
        "--tower", required=True, help="what transformers loads, or module:function"
    )
    parser.add_argument(
        "--layer",
        type=int,
        help="index into transformers' hidden states; -1 is the tower's own last state; "
        "default: the last but one, as LLaVA has it",
    )
    parser.add_argument("--size", type=int, help="side of the tower's pictures; default: its own")
    parser.add_argument("--text", help="CLIP checkpoint, or file of train_text_map.py")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="keep ratios")
    parser.add_argument("--limit", type=int, help="no more photographs than that, by chance")
    parser.add_argument(
        "--only",
        type=Path,
        metavar="FILE",
        help="only photographs whose numbers FILE has, one a line",
    )
    parser.add_argument("--pictures", type=int, default=6, help="photographs to draw")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/photos"))
    args = parser.parse_args()
    if wrong := [ratio for ratio in args.ratios if not 0 < ratio < 1]:
        parser.error(f"--ratios are between 0 and 1, got {wrong[0]:g}")
    return args


def run(args: argparse.Namespace) -> None:
    """Measure the photographs that are not in OUT yet, and report on all."""
    torch.set_num_threads(args.threads)
    photos = chosen(args.photos, args.only, None, args.limit)
    tower = load_tower(args.tower, args.layer, args.size)
    text = load_text(args.text, args.tower, args.layer)

    about = {
        "tower": args.tower,
        "layer": args.layer,
        "size": tower.size,
        "text": args.text,
        "ratios": list(args.ratios),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "photos.jsonl"
    before = read_lines(path)
    if before:
        check_same_run(args.out, before[0], about)
    write_lines(path, before or [about])
    lines = {line["id"]: line for line in before[1:]}
    with path.open("a", encoding="utf-8") as file:
        for photo in tqdm(photos, unit="photograph", mininterval=5):
            if photo.id not in lines:
                line = measure(photo, tower.tokens_of(Image.open(photo.path)), text, args.ratios)
                lines[photo.id] = line
                file.write(json.dumps(line) + "\n")
                file.flush()
    results = Results([lines[photo.id] for photo in photos])
    publish_all(args, describe(args, photos, results, tower, text is not None), results)
    draw_some(args.out / "pictures", photos, tower, text, args.pictures)


def describe(
    args: argparse.Namespace, photos: list[Photo], results: Results, tower: Tower, has_text: bool
) -> dict[str, Any]:
    """What a reader needs to judge and to repeat the run."""
    things = [each for line in results.lines for each in line["objects"] if each["thing"]]
    panoptic = [line for line in results.lines if line["panoptic"]]
    tokens = sorted({line["tokens"] for line in results.lines})
    return {
        "photographs": f"{len(photos)}, {len(panoptic)} of them with stuff marked too",
        "asked for": f"{len(things)} kinds of things in {len(results.asked)} photographs",
        "segments": sum(len(line["segments"]) for line in panoptic),
        "tower": args.tower,
        "layer": "the last but one, or the only one" if args.layer is None else args.layer,
        "tokens of a photograph": f"{', '.join(map(str, tokens))} ({tower.size}x{tower.size} px)",
        "text": _described_text(args.text, has_text),
        "machine": f"{machine()}, {args.threads} threads on the CPU, float32",
        **repeatable(("vllm-script", "torch", "transformers")),
    }


def _described_text(text: str | None, has_text: bool) -> str:
    """Where the relevance of text comes from, and of a learned map how good it is."""
    if text is None or not Path(text).is_file():
        return text or ("the tower's own" if has_text else "none")
    about = TextMap.load(Path(text)).about
    return (
        f"{Path(text).name}, from {about['photographs']} photographs and "
        f"{Path(about['sentences']).name}; held out {about['held out']}"
    )


def publish_all(args: argparse.Namespace, about: dict[str, Any], results: Results) -> None:
    """Write the figures, the plot, and the report.

    Raises:
        ValueError: no photograph has anything to ask for.
    """
    if not results.asked:
        raise ValueError(f"nothing in these photographs can be asked for:\n{bullets(about)}")
    found = tables(results)
    write_lines(
        args.out / "figures.jsonl", [about, *(line for table in found for line in table.lines())]
    )
    plot(results, args.out / "plot.png")
    publish(args.out, report(about, found))


def draw_some(
    folder: Path, photos: list[Photo], tower: Tower, text: TextRelevance | None, most: int
) -> None:
    """Draw one object of some photographs, first of those that may be shown to others."""
    folder.mkdir(exist_ok=True)
    drawn = 0
    for photo in sorted(photos, key=lambda photo: not photo.is_free):
        if drawn == most:
            break
        tokens = tower.tokens_of(Image.open(photo.path))
        things = [each for each in askable(photo, len(tokens)) if each.is_thing]
        if not things:
            continue
        thing = min(things, key=lambda each: int(each.tokens.sum()))
        sources = relevances(tokens, thing.category, thing.tokens, text, seed=photo.id)
        relevance = next(iter(sources.values())) if text else sources[noisy(1)]
        budget = max(1, round(0.11 * len(tokens)))
        selections = {
            mode: select_visual_tokens(tokens, budget, relevance=relevance, mode=mode)
            for mode in DRAWN
        }
        name = f"{photo.path.stem}-{thing.category.replace(' ', '-')}.jpg"
        draw(photo, thing, selections, relevance, folder / name)
        drawn += 1


if __name__ == "__main__":
    main()
