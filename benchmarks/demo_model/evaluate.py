"""Accuracy of an exported script-demo on held-out questions, per kind, beside a blind guesser.

`python benchmarks/demo_model/evaluate.py DIR/script-demo`: transformers' own classes, processor and
greedy decoding on the CPU, every visual token kept; no vLLM, no network.
"""

import argparse
from pathlib import Path

import torch

from vllm_script.benchmarks.scenes.answering import Answerer
from vllm_script.benchmarks.scenes.held_out import accuracy_by_kind, blind_accuracy, held_out
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.benchmarks.scenes.questions import questions_of
from vllm_script.benchmarks.scenes.scene import scene_of
from vllm_script.benchmarks.scenes.splits import seed_of
from vllm_script.benchmarks.scenes.words import TYPES

KNOWN_SCENES = 5000
"""Training scenes that the blind guesser has read all questions of."""
REPORT_EVERY = 100


def main() -> None:
    """Ask, count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="exported folder")
    parser.add_argument("--questions", type=int, default=1200)
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    answerer = Answerer(args.model)
    hits: dict[str, list[bool]] = {kind: [] for kind in TYPES}
    asked = list(held_out(args.split, args.questions))
    for number, (scene, question) in enumerate(asked, start=1):
        picture, _ = draw(scene)
        hits[question.kind].append(answerer.answer(picture, question.text) == question.answer)
        if number % REPORT_EVERY == 0:
            print(f"{number} of {len(asked)}: {accuracy_by_kind(hits)['all']:.3f}", flush=True)
    known = [q for i in range(KNOWN_SCENES) for q in questions_of(scene_of(seed_of("train", i)))]
    blind = blind_accuracy(known, [question for _, question in asked])
    print(f"{'kind':<10} {'asked':>6} {'right':>6} {'blind':>6}")
    for kind, accuracy in accuracy_by_kind(hits).items():
        count = len(asked) if kind == "all" else len(hits[kind])
        print(f"{kind:<10} {count:>6} {accuracy:>6.3f} {blind[kind]:>6.3f}")


if __name__ == "__main__":
    main()
