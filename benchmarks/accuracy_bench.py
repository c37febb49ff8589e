"""Accuracy against keep ratio, for every mode and relevance source, through a real server.

    python benchmarks/accuracy_bench.py                        # script-demo on its test questions
    python benchmarks/accuracy_bench.py --questions FOLDER --model llava-next
    python benchmarks/accuracy_bench.py --questions FOLDER --url http://host:8000/v1

Without --url it starts `vllm serve MODEL --plugin script` and stops it in the end; flags after `--`
go to that server. FOLDER has a questions.jsonl with lines such as

    {"image": "a.jpg", "question": "What color is the bus?", "answer": "red", "kind": "color"}

where answer may be a list of accepted ones and kind may be missing; instead of "image" a "video", a
file or a folder of frames. With "then": [{"question": ..., "answer": ...}, ...] a line goes on as a
chat: each is asked about the same picture after those before it and their right answers.

How an answer is scored says "rule" in a line, or --rule for lines that do not:
  exact    right if it equals an accepted answer but for case, articles and punctuation
  choice   right if it names the letter of an accepted choice, or is its text
  yes-no   right if its first yes or no is the accepted one; POPE's figures are reported
  vqa      VQA accuracy; the answers are those of all humans, the same ones repeated
  anls     likeness to the nearest accepted answer in letters, 0 below a half; for documents

Sources of relevance that the model does not have are left out. Every question is also asked
without its picture, which shows how much can be guessed. Stop it at any time: the same command goes
on where it was. Writes OUT/answers.jsonl, results.jsonl, report.md and accuracy.png.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
from tqdm import tqdm

from vllm_script.benchmarks import common
from vllm_script.benchmarks.accuracy.asking import Endpoint, ask_all, read_answers
from vllm_script.benchmarks.accuracy.questions import Item, demo_questions, folder_questions
from vllm_script.benchmarks.accuracy.scores import Scores, score
from vllm_script.benchmarks.accuracy.scoring import RULES, check
from vllm_script.benchmarks.accuracy.settings import (
    ALONE,
    BLIND,
    POLICIES,
    RATIOS,
    SOURCES,
    WHOLE,
    WHOLE_ALONE,
    Setting,
    grid,
)
from vllm_script.benchmarks.accuracy.tables import plot, report
from vllm_script.benchmarks.common import ending_well, machine, parser_of, publish
from vllm_script.pruning import MODES
from vllm_script.server.aliases import SCRIPT_DEMO
from vllm_script.server.launch import VllmServer


def main() -> None:
    args = parse_arguments()
    with ending_well(ValueError, OSError, RuntimeError, openai.OpenAIError):
        items = read_questions(args)
        sources = args.sources or SOURCES
        choice = args.ratios, args.modes, sources, args.conversations
        settings = [WHOLE] if args.stock else grid(*choice)
        settings.insert(1, BLIND)
        if ALONE in args.conversations:
            settings.insert(1, WHOLE_ALONE)
        args.out.mkdir(parents=True, exist_ok=True)
        about = describe(args, len(items))
        run = {name: about[name] for name in ("model", "questions")}
        for before in common.read_lines(args.out / "run.json"):
            common.check_same_run(args.out, before, run)
        common.write_lines(args.out / "run.json", [run])
        scores = measure(args, items, settings, about)
    scores.save(args.out / "results.jsonl")
    if args.stock:
        blind = scores.right[BLIND].mean()
        print(f"accuracy {scores.whole.mean():.3f} of {len(items)} questions, blind {blind:.3f}")
        return
    check_pruned(scores)
    plot(scores, args.out / "accuracy.png")
    publish(args.out, report(scores))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"), help="folder of results")
    add = parser.add_argument_group("what answers").add_argument
    add("--model", default=SCRIPT_DEMO, help="model to serve, or its name at --url")
    add("--url", help="an OpenAI-compatible endpoint that is running, with /v1")
    add("--stock", action="store_true", help="it does not prune: send no settings")
    add("--concurrency", type=int, default=8, help="requests at once")
    add("--max-tokens", type=int, default=8, help="length of an answer")
    compare = "also compare first tokens with those of all tokens, as shadow mode does"
    add("--first-tokens", action="store_true", help=compare)
    add = parser.add_argument_group("what is asked").add_argument
    add("--questions", type=Path, help="folder; default: script-demo's scenes")
    add("--rule", choices=list(RULES), default="exact", help="of questions that name none")
    add("--split", choices=("dev", "test"), default="test", help="of those scenes")
    few = "ask follow-ups: so many questions about the scene are asked and answered before each (0)"
    add("--earlier", type=int, default=0, metavar="N", help=few)
    add("--limit", type=int, default=1200, help="questions at most")
    add = parser.add_argument_group("how it is pruned").add_argument
    add("--ratios", type=float, nargs="+", default=RATIOS, help="keep ratios")
    add("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    add("--sources", nargs="+", choices=SOURCES, help="of relevance; default: all")
    policies = "of chats; alone: without the turns before the question; default: the server's"
    add("--conversations", nargs="+", choices=POLICIES, default=[None], help=policies)
    own, flags = common.split_arguments(None)
    args = parser.parse_args(own)
    args.server_flags = flags
    return args


def read_questions(args: argparse.Namespace) -> list[Item]:
    """Draw or read the questions.

    Raises:
        ValueError: there are none, or one is malformed.
    """
    own = args.questions
    if own and args.earlier:
        raise ValueError('--earlier is for script-demo\'s scenes; a folder has "then" for chats')
    source = (
        folder_questions(own, args.rule)
        if own
        else demo_questions(args.split, args.limit, args.earlier)
    )
    bar = tqdm(source, desc="questions", total=None if own else args.limit)
    if items := list(itertools.islice(bar, args.limit)):
        for item in items:
            check(item)
        return items
    raise ValueError(f"no questions in {own}")


def describe(args: argparse.Namespace, num_questions: int) -> dict[str, Any]:
    """What a reader needs to judge and to repeat the run."""
    questions = args.questions.name if args.questions else f"{SCRIPT_DEMO} {args.split} split"
    if args.earlier:
        questions += f", {args.earlier} asked before each"
    return {
        "model": args.model,
        "questions": f"{num_questions} of {questions}",
        "machine": "a server" if args.url else machine(),
        **common.repeatable(),
    }


def measure(
    args: argparse.Namespace, items: list[Item], settings: list[Setting], about: dict[str, Any]
) -> Scores:
    """Ask everything that has no answer yet, and score it."""
    path = args.out / "answers.jsonl"
    answers = read_answers(path, args.first_tokens)

    async def ask(url: str) -> list[Setting]:
        """Ask, and return the settings that the endpoint has, or all if they were chosen."""
        key = os.environ.get("OPENAI_API_KEY", "none")
        endpoint = Endpoint(
            url, args.model, key, args.max_tokens, args.stock, first_tokens=args.first_tokens
        )
        asked = settings if args.sources else await endpoint.available(items[0], settings)
        await ask_all(endpoint, items, asked, answers, path, args.concurrency)
        return asked

    if not all((item.id, str(setting)) in answers for item in items for setting in settings):
        flags = ["--plugin", "script", "--enforce-eager", *args.server_flags]
        env = {"VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB, where there is no GPU
        with ExitStack() as stack:
            if not (url := args.url):
                print(f"$ vllm serve {args.model} {shlex.join(flags)}", file=sys.stderr)
                url = stack.enter_context(VllmServer(args.model, *flags, env=env)).url
            settings = asyncio.run(ask(url))
    return score(about, items, settings, answers)


def check_pruned(scores: Scores) -> None:
    """Exit if the endpoint did not do what it was asked for."""
    for setting, tokens in scores.prompt_tokens.items():
        if setting.mode and tokens >= scores.prompt_tokens[WHOLE]:
            sys.exit(
                f"prompts at {setting} are as long as unpruned ones ({tokens:.0f} tokens): the "
                "endpoint did not prune. Start it with --plugin script, or give --stock"
            )


if __name__ == "__main__":
    main()
