"""What a vision tower makes of photographs when patches are dropped inside it, by which score.

    python benchmarks/tower_bench.py --photos FOLDER --tower openai/clip-vit-large-patch14-336
    python benchmarks/tower_bench.py --photos FOLDER --tower TOWER --layer 9 --size 336

After one of its layers the tower keeps a share of the patches, and its other layers see these
alone. Which ones stay is said by a score (thinning/scores.py), which does not read the question.
Then the selection picks among the survivors, as mode `script` does for a question about each thing
in the photograph. Towers are those of photo_bench.py that transformers loads; photographs,
relevance and intervals are as there. The report has, for each layer and share:

- cosine: of a survivor's features with those of the whole tower, also without the photograph's mean
- distance of a dropped patch: 1 - cosine of its features in the whole tower to the nearest
  survivor's in the thinned one, also without the mean
- what the selection keeps of the object asked for, and of all segments

Writes a line for each photograph to OUT/photos.jsonl, then OUT/figures.jsonl and report.md. Stopped
at any time, it goes on where it was; with --limit, --only or --without it reports on a part.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vllm_script.benchmarks.common import (
    appended_lines,
    check_same_run,
    ending_well,
    machine,
    parser_of,
    publish,
    read_lines,
    repeatable,
    write_lines,
)
from vllm_script.benchmarks.photos.folder import chosen
from vllm_script.benchmarks.photos.relevance import load_text
from vllm_script.benchmarks.photos.report import report
from vllm_script.benchmarks.photos.tower import Tower, load_tower
from vllm_script.benchmarks.thinning.hook import DEPTHS, KEEPS, Cut
from vllm_script.benchmarks.thinning.measures import measure
from vllm_script.benchmarks.thinning.results import tables
from vllm_script.benchmarks.thinning.scores import OF_PATCHES, SCORES

RATIOS = (0.11, 0.056)


def main() -> None:
    args = parse_arguments()
    with ending_well(ValueError, FileNotFoundError):
        run(args)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--tower", required=True, help="what transformers loads")
    parser.add_argument("--layer", type=int, help="that is read, as in photo_bench.py")
    parser.add_argument("--size", type=int, help="side of the tower's pictures; default: its own")
    parser.add_argument("--text", help="CLIP checkpoint, or file of train_text_map.py")
    parser.add_argument(
        "--after", type=int, nargs="+", help="layers; default: a 6th, 4th, 3rd and half of all"
    )
    parser.add_argument("--keep", type=float, nargs="+", default=KEEPS, help="shares that stay")
    parser.add_argument("--scores", nargs="+", choices=list(SCORES), default=list(OF_PATCHES))
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="keep ratios")
    parser.add_argument("--limit", type=int, help="no more photographs than that, by chance")
    numbers = "photographs whose numbers FILE has, one a line"
    parser.add_argument("--only", type=Path, metavar="FILE", help=f"only {numbers}")
    parser.add_argument("--without", type=Path, metavar="FILE", help=f"without {numbers}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/tower"))
    args = parser.parse_args()
    for flag, values in (("--keep", args.keep), ("--ratios", args.ratios)):
        if wrong := [value for value in values if not 0 < value < 1]:
            parser.error(f"{flag} are between 0 and 1, got {wrong[0]:g}")
    if max(args.ratios) > min(args.keep):
        parser.error(
            f"--ratios {max(args.ratios):g} is more than the tower leaves, --keep "
            f"{min(args.keep):g}; ratios are shares of all patches"
        )
    return args


def run(args: argparse.Namespace) -> None:
    """Measure the photographs that are not in OUT yet, and report on all."""
    torch.set_num_threads(args.threads)
    photos = chosen(args.photos, args.only, args.without, args.limit)
    tower = load_tower(args.tower, args.layer, args.size)
    text = load_text(args.text, args.tower, args.layer)
    cuts = cuts_of(args, tower)
    about = {
        "tower": args.tower,
        "layer": args.layer,
        "size": tower.size,
        "text": args.text,
        "cuts": [str(cut) for cut in cuts],
        "scores": args.scores,
        "ratios": list(args.ratios),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "photos.jsonl"
    if before := read_lines(path):
        check_same_run(args.out, before[0], about)
    write_lines(path, before or [about])
    lines = {line["id"]: line for line in before[1:]}
    with appended_lines(path) as append:
        for photo in tqdm(photos, unit="photograph", mininterval=5):
            if photo.id not in lines:
                line = measure(photo, tower, text, cuts, args.scores, args.ratios)
                lines[photo.id] = line
                append(line)
    found = tables([lines[photo.id] for photo in photos])
    about = describe(args, [lines[photo.id] for photo in photos], tower, text is not None)
    write_lines(
        args.out / "figures.jsonl", [about, *(line for table in found for line in table.lines())]
    )
    publish(args.out, report(about, found))


def cuts_of(args: argparse.Namespace, tower: Tower) -> list[Cut]:
    """All layers with all shares.

    Raises:
        ValueError: the tower has no such layers, or is none of transformers.
    """
    if tower.blocks is None:
        raise ValueError(f"--tower {args.tower} has no layers that patches can be dropped between")
    depth, layer = len(tower.blocks), -2 if args.layer is None else args.layer
    read = layer if layer >= 0 else depth + 1 + layer
    afters = args.after or sorted({max(1, round(share * depth)) for share in DEPTHS})
    if wrong := [after for after in afters if not 0 < after < read]:
        raise ValueError(
            f"--after {wrong[0]} is not between the first layer and the one that is read, {read}"
        )
    return [Cut(after, keep) for after in afters for keep in args.keep]


def describe(
    args: argparse.Namespace, lines: list[dict[str, Any]], tower: Tower, has_text: bool
) -> dict[str, Any]:
    """What a reader needs to judge and to repeat the run."""
    asked = [line for line in lines if line["objects"]]
    tokens = sorted({line["tokens"] for line in lines})
    assert tower.blocks is not None, "checked before"
    return {
        "photographs": f"{len(lines)}, {sum(line['panoptic'] for line in lines)} of them with "
        "stuff marked too",
        "asked for": f"{sum(len(line['objects']) for line in asked)} kinds of things in "
        f"{len(asked)} photographs",
        "tower": f"{args.tower}, {len(tower.blocks)} layers",
        "layer that is read": "the last but one" if args.layer is None else args.layer,
        "patches of a photograph": f"{', '.join(map(str, tokens))} ({tower.size}x{tower.size} px)",
        "relevance": "of text" if has_text else "the true mask with noise of twice its step",
        "machine": f"{machine()}, {args.threads} threads on the CPU, float32",
        **repeatable(("vllm-script", "torch", "transformers")),
    }


if __name__ == "__main__":
    main()
