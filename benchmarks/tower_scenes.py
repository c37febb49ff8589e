"""What script-demo's answers lose when patches are dropped inside its vision tower.

    python benchmarks/tower_scenes.py --split dev      # to choose by
    python benchmarks/tower_scenes.py --split test     # to report

After one of the tower's layers each tile keeps a share of its patches, which a score picks
(thinning/scores.py); the other layers see these alone. Mode `script` then selects among them, by
the relevance that CLIP gives to what is left of the tower. Budgets are shares of all visual tokens.
Asks through transformers in this process. Answers are compared question by question with those of
the whole tower at the same keep ratio.

Writes a line for each question to OUT/answers.jsonl, then OUT/figures.jsonl and report.md. Stopped
at any time, it goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vllm_script.benchmarks.accuracy.in_process import DemoModel, Encoded
from vllm_script.benchmarks.accuracy.scores import Scores
from vllm_script.benchmarks.accuracy.settings import WHOLE, Setting
from vllm_script.benchmarks.accuracy.tables import ablation
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
from vllm_script.benchmarks.scenes.held_out import held_out
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.benchmarks.thinning.hook import Cut
from vllm_script.benchmarks.thinning.scores import OF_PATCHES, SCORES
from vllm_script.budget import num_kept
from vllm_script.pruning import PruningParams, run_mode
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of

RATIOS = (0.11, 0.056)
NOT_THINNED = "whole tower"
ALL_TOKENS = "all tokens"


def main() -> None:
    args = parse_arguments()
    with ending_well(ValueError):
        run(args)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--questions", type=int, default=1008)
    parser.add_argument("--after", type=int, nargs="+", default=(1, 2, 3), help="layers, of four")
    parser.add_argument("--keep", type=float, nargs="+", default=(0.75, 0.5), help="shares")
    parser.add_argument("--scores", nargs="+", choices=list(SCORES), default=list(OF_PATCHES))
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="keep ratios")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/tower-scenes"))
    args = parser.parse_args()
    if wrong := [after for after in args.after if after not in (1, 2, 3)]:
        parser.error(f"--after is 1, 2 or 3: script-demo reads the fourth layer; got {wrong[0]}")
    for flag, values in (("--keep", args.keep), ("--ratios", args.ratios)):
        if wrong := [value for value in values if not 0 < value < 1]:
            parser.error(f"{flag} are between 0 and 1, got {wrong[0]:g}")
    if 2 * max(args.ratios) > min(args.keep):
        parser.error(
            f"--ratios {max(args.ratios):g} may be more than --keep {min(args.keep):g} leaves of a "
            "picture whose border is cut; give ratios of at most half of it"
        )
    return args


def run(args: argparse.Namespace) -> None:
    """Ask the questions that are not in OUT yet, and report on all."""
    torch.set_num_threads(args.threads)
    model = DemoModel(Path(repository_of(SCRIPT_DEMO) or ""))
    towers = {NOT_THINNED: None} | {
        f"{score}, {cut}": (SCORES[score], cut)
        for cut in itertools.starmap(Cut, itertools.product(args.after, args.keep))
        for score in args.scores
    }
    about = {"split": args.split, "towers": list(towers), "ratios": list(args.ratios)}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "answers.jsonl"
    if before := read_lines(path):
        check_same_run(args.out, before[0], about)
    write_lines(path, before or [about])
    lines = before[1:]
    asked = itertools.islice(held_out(args.split, args.questions), len(lines), None)
    with appended_lines(path) as append:
        left = max(args.questions - len(lines), 0)
        for scene, question in tqdm(asked, total=left, unit="question", mininterval=5):
            picture, right = draw(scene)[0], {}
            for name, thinning in towers.items():
                encoded = model.encode(picture, question.text, thinning)
                selections = select(model, encoded, question.text, args.ratios)
                if thinning is None:
                    right[ALL_TOKENS] = _asked(model, encoded, [torch.arange(len(encoded.rows))])
                right[name] = _asked(model, encoded, selections)
            lines.append(
                {"kind": question.kind}
                | {name: [a == question.answer for a in own] for name, own in right.items()}
            )
            append(lines[-1])
    scores = scores_of(describe(args), lines[: args.questions], list(towers), args.ratios)
    scores.save(args.out / "figures.jsonl")
    publish(args.out, ablation(scores, NOT_THINNED))


def select(
    model: DemoModel, encoded: Encoded, question: str, ratios: list[float]
) -> list[torch.Tensor]:
    """Visual tokens [kept] that mode `script` keeps at each ratio of what the tower leaves."""
    relevance = model.relevance(encoded, question, "clip")
    num_patches = int((encoded.rows >= 0).sum())
    found = []
    for ratio in ratios:
        budget = num_kept(len(encoded.rows), num_patches, keep_ratio=ratio)
        assert budget is not None, "every ratio is below 1"
        tokens = encoded.features[encoded.patches]
        kept = run_mode(tokens, budget, relevance, "script", PruningParams())
        found.append(encoded.places[kept])
    return found


def _asked(model: DemoModel, encoded: Encoded, selections: list[torch.Tensor]) -> list[str]:
    """The answer with each selection."""
    return [model.answers(encoded, [kept])[0] for kept in selections]


def scores_of(
    about: dict[str, Any], lines: list[dict[str, Any]], towers: list[str], ratios: list[float]
) -> Scores:
    """Right or wrong of every question, with all tokens and at each ratio of each tower."""
    scores = Scores(about, [line["kind"] for line in lines], {})
    scores.right[WHOLE] = np.array([line[ALL_TOKENS][0] for line in lines])
    for name, (place, ratio) in itertools.product(towers, enumerate(ratios)):
        scores.right[Setting(ratio, name)] = np.array([line[name][place] for line in lines])
    scores.prompt_tokens.update(dict.fromkeys(scores.right, 0.0))
    return scores


def describe(args: argparse.Namespace) -> dict[str, str]:
    """What a reader needs to judge and to repeat the run."""
    return {
        "model": SCRIPT_DEMO,
        "questions": f"{args.questions} of the {args.split} split",
        "tower": "a CLIP whose fourth layer is read; a tile has 196 patches",
        "machine": f"{machine()}, {args.threads} threads on the CPU, float32",
        **repeatable(("vllm-script", "torch", "transformers")),
    }


if __name__ == "__main__":
    main()
