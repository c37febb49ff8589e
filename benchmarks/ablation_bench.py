"""What each choice behind the defaults is worth: accuracy of script-demo, one thing changed a time.

    python benchmarks/ablation_bench.py --split dev      # to choose by
    python benchmarks/ablation_bench.py --split test     # to report

Asks through transformers in this process, every variant on the same encoded picture; what is served
is measured by accuracy_bench.py. Writes OUT/ablation-SPLIT.jsonl and .md.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vllm_script.benchmarks.accuracy.in_process import DemoModel, Encoded
from vllm_script.benchmarks.accuracy.scores import Scores
from vllm_script.benchmarks.accuracy.settings import WHOLE, Setting
from vllm_script.benchmarks.accuracy.tables import ablation
from vllm_script.benchmarks.accuracy.variants import DEFAULT, VARIANTS, Variant, select
from vllm_script.benchmarks.common import machine, parser_of, repeatable
from vllm_script.benchmarks.scenes.held_out import held_out
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.budget import num_kept
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of

RATIOS = (0.11, 0.056, 0.015)


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    model = DemoModel(args.model)
    scores = Scores(describe(args), [], {})
    hits: dict[Setting, list[bool]] = defaultdict(list)
    asked = held_out(args.split, args.questions)
    for scene, question in tqdm(asked, total=args.questions, unit="question", mininterval=5):
        encoded = model.encode(draw(scene)[0], question.text)
        selections = select_all(model, encoded, question.text, args.variants, args.ratios)
        scores.kinds.append(question.kind)
        for setting, answer in answer_all(model, encoded, selections).items():
            hits[setting].append(answer == question.answer)
    for setting, right in hits.items():
        scores.right[setting] = np.array(right)
        scores.prompt_tokens[setting] = 0.0
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"ablation-{args.split}"
    scores.save(path.with_suffix(".jsonl"))
    text = ablation(scores, DEFAULT.name)
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(f"{text}\nwritten to {args.out}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    demo = Path(repository_of(SCRIPT_DEMO) or "")
    parser.add_argument("--model", type=Path, default=demo, help="folder that train.py wrote")
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--questions", type=int, default=1200)
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="keep ratios")
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args()
    args.variants = [each for each in VARIANTS if each.name in [DEFAULT.name, *args.variants]]
    return args


def describe(args: argparse.Namespace) -> dict[str, str]:
    """What a reader needs to judge and to repeat the run."""
    return {
        "model": SCRIPT_DEMO,
        "questions": f"{args.questions} of the {args.split} split",
        "machine": f"{machine()}, {args.threads} threads on the CPU, float32",
        **repeatable(("vllm-script", "torch", "transformers")),
    }


def select_all(
    model: DemoModel,
    encoded: Encoded,
    question: str,
    variants: Sequence[Variant],
    ratios: Sequence[float],
) -> dict[Setting, torch.Tensor]:
    """Visual tokens [kept] that each of these variants keeps at every ratio, and all of them."""
    sources = sorted({variant.source for variant in variants})
    scores = {source: model.relevance(encoded, question, source) for source in sources}
    selections = {WHOLE: torch.arange(len(encoded.rows))}
    for variant, ratio in itertools.product(variants, ratios):
        budget = num_kept(len(encoded.rows), len(encoded.places), keep_ratio=ratio)
        assert budget is not None, "every ratio is below 1"
        selections[Setting(ratio, variant.name)] = _keep(variant, encoded, budget, scores)
    return selections


def _keep(
    variant: Variant, encoded: Encoded, budget: int, scores: dict[str, torch.Tensor | None]
) -> torch.Tensor:
    relevance = scores[variant.source]
    if relevance is not None and variant.flip:
        relevance = relevance.max() - relevance
    tokens = encoded.features[encoded.patches]
    kept = encoded.places[select(variant, tokens, budget, relevance, encoded.tiles)]
    if not variant.newlines:
        return kept
    newlines = (encoded.rows < 0).nonzero()[:, 0]
    # The newline that ends the row of a kept patch; patches of the base tile have none.
    row_length = int(newlines[1] - newlines[0])
    grid = kept[kept >= len(encoded.rows) - len(newlines) * row_length]
    ends = newlines[torch.searchsorted(newlines, grid)].unique()
    return torch.cat([kept, ends]).sort().values


def answer_all(
    model: DemoModel, encoded: Encoded, selections: dict[Setting, torch.Tensor]
) -> dict[Setting, str]:
    """The answer with each selection; those of one length are asked together."""
    by_length: dict[int, list[Setting]] = defaultdict(list)
    for setting, kept in selections.items():
        by_length[len(kept)].append(setting)
    answers: dict[Setting, str] = {}
    for settings in by_length.values():
        texts = model.answers(encoded, [selections[setting] for setting in settings])
        answers.update(zip(settings, texts, strict=True))
    return {setting: answers[setting] for setting in selections}


if __name__ == "__main__":
    main()
