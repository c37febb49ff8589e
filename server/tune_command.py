"""`vllm-script tune`: keep ratio, mode and relevance for the loss of accuracy that you accept.

    vllm-script tune --model llava-next --questions FOLDER --loss 1 --sure 95
    vllm-script tune --url http://host:8000 --log requests.jsonl --loss 2

FOLDER has questions with answers, as benchmarks/accuracy_bench.py takes them; a log has chat
requests, whose truth is what the model answers unpruned. Without either, script-demo is asked its
own questions. Flags after `--` go to the server that is started for --model. Stop it at any
time: the same command goes on where it was. Writes answers.jsonl, settings.jsonl, report.md and
tune.png into OUT.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.util
import itertools
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai

from vllm_script.benchmarks import common
from vllm_script.benchmarks.accuracy.asking import Endpoint
from vllm_script.benchmarks.accuracy.questions import FILE, demo_questions, folder_questions
from vllm_script.benchmarks.accuracy.scoring import check
from vllm_script.benchmarks.accuracy.settings import SOURCES, WHOLE, Setting, grid
from vllm_script.benchmarks.tuning import findings
from vllm_script.benchmarks.tuning.findings import Times
from vllm_script.benchmarks.tuning.log import read_log
from vllm_script.benchmarks.tuning.losses import Losses, Question
from vllm_script.benchmarks.tuning.search import Search, check_enough
from vllm_script.benchmarks.tuning.server import (
    allowed,
    first_model,
    first_token_seconds,
    in_words,
)
from vllm_script.pruning import MODES

from .aliases import SCRIPT_DEMO, check_known
from .launch import VllmServer, show_waiting

RATIOS = (0.5, 0.35, 0.22, 0.16, 0.11, 0.08, 0.056, 0.04, 0.028, 0.02)
DEMO_QUESTIONS = 300
FIRST_LOOK = 16
"""Questions of which one at least must be answered right unpruned."""
PAIRS = 12
"""Requests whose time to the first token is measured, unpruned and pruned."""
NOTHING_SHOWN, WRONG_INPUT, STOPPED = 1, 2, 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command is given to its parser."""
    parser.epilog = __doc__.split("\n\n", 1)[1]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/tune"), help="folder of results (runs/tune)")
    add("server_flags", nargs="*", metavar="FLAG", help="of the server for --model")
    add = parser.add_argument_group("what answers").add_argument
    add("--model", help=f"model to load, or one of the server's (default {SCRIPT_DEMO}; the first)")
    add("--url", help="ask this server, started with --plugin script, instead of loading a model")
    add("--api-key", help="key of that server (default: $OPENAI_API_KEY)")
    add("--concurrency", type=int, default=8, help="requests at once (8)")
    add("--max-tokens", type=int, default=8, help="length of an answer that is compared (8)")
    group = parser.add_argument_group("what is asked")
    truth = group.add_mutually_exclusive_group()
    truth.add_argument("--questions", type=Path, help="folder of questions with answers")
    truth.add_argument("--log", type=Path, help="file of chat requests, one JSON body a line")
    group.add_argument("--limit", type=int, help="questions at most")
    add = parser.add_argument_group("what you accept").add_argument
    help_ = "points of accuracy; with --log, percent of the answers that change"
    add("--loss", type=float, required=True, metavar="POINTS", help=help_)
    add("--sure", type=float, default=95, metavar="PERCENT", help="confidence (95)")
    add = parser.add_argument_group("what is tried").add_argument
    add("--ratios", type=float, nargs="+", default=RATIOS, metavar="RATIO", help="keep ratios")
    add(
        "--modes",
        nargs="+",
        choices=list(MODES),
        default=list(MODES),
        metavar="MODE",
        help=f"of {', '.join(MODES)}; default: all",
    )
    add(
        "--sources",
        nargs="+",
        choices=SOURCES,
        default=SOURCES,
        metavar="SOURCE",
        help=f"of relevance, of {', '.join(SOURCES)}; default: those that the server has",
    )


def run(args: argparse.Namespace) -> int:
    """Search, and print what was found.

    Returns:
        0 where a setting was shown to keep to the limit, 1 where none was, 2 for wrong input.
    """
    try:
        if importlib.util.find_spec("matplotlib") is None:
            raise ValueError("the picture needs matplotlib; pip install 'vllm-script[bench]'")
        return _tune(args)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on where it was", file=sys.stderr)
        return STOPPED
    except (ValueError, OSError, RuntimeError) as error:
        print(f"vllm-script: error: {error}", file=sys.stderr)
        return WRONG_INPUT


def _tune(args: argparse.Namespace) -> int:
    for name in ("concurrency", "max_tokens", "limit"):
        if (number := getattr(args, name)) is not None and number < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} must be at least 1, got {number}")
    limit, error = _accepted(args)
    questions, run = _questions(args)
    check_enough(len(questions), limit, error)
    settings = _settings(args)
    args.out.mkdir(parents=True, exist_ok=True)
    with _server(args) as url:
        search, times = asyncio.run(_search(args, url, questions, settings, run))
    about = run | {
        "accepted": f"{args.loss:g} points, {args.sure:g} % sure",
        "requests": f"{len(search.losses.known)}, where every setting on every question takes "
        f"{len(questions) * (len(search.settings) + 1)}",
        "machine": "a server" if args.url else common.machine(),
        **common.repeatable(),
        "command": shlex.join(["vllm-script", *sys.argv[1:]]),
    }
    common.write_lines(args.out / "settings.jsonl", findings.lines(search, about, times))
    findings.plot(search, args.out / "tune.png")
    common.publish(args.out, findings.report(search, about, times))
    return 0 if search.chosen else NOTHING_SHOWN


async def _search(
    args: argparse.Namespace,
    url: str,
    questions: Sequence[Question],
    settings: list[Setting],
    run: dict[str, Any],
) -> tuple[Search, Times | None]:
    """Ask a server until the search ends, and how long it takes in what was found."""
    key = args.api_key or os.environ.get("OPENAI_API_KEY", "none")
    endpoint = Endpoint(url, args.model or SCRIPT_DEMO, key, args.max_tokens, stock=False)
    try:
        if args.url and not args.model:
            endpoint.model = await first_model(endpoint)
        run["model"] = endpoint.model
        for before in common.read_lines(args.out / "run.json"):
            common.check_same_run(args.out, before, run)
        common.write_lines(args.out / "run.json", [run])
        losses = Losses(endpoint, args.out / "answers.jsonl", args.concurrency)
        settings, said_no = await allowed(endpoint, questions[0], settings)
        for words in said_no:
            print(f"left out: {words}", file=sys.stderr)
        with Progress(losses) as progress:
            search = Search(losses, questions, settings, *_accepted(args), progress.show)
            await losses.check_truth(search.testing[:FIRST_LOOK])
            await search.run()
            return search, await _times(args, search, progress)
    except openai.OpenAIError as error:
        raise ValueError(in_words(error, url.removesuffix("/v1"))) from None


async def _times(args: argparse.Namespace, search: Search, progress: Progress) -> Times | None:
    """How long the setting that was found takes, and no pruning, in turns (A B B A)."""
    if (chosen := search.chosen) is None:
        return None
    path, name = args.out / "times.jsonl", str(chosen.setting)
    pairs = [line["seconds"] for line in common.read_lines(path) if line["setting"] == name]
    endpoint = search.losses.endpoint
    if len(pairs) < PAIRS:
        for setting in (WHOLE, chosen.setting):  # what is done for the first time takes longer
            await first_token_seconds(endpoint, search.testing[0], setting)
    asked = search.testing[: len(chosen.losses)]
    while len(pairs) < PAIRS:
        question = asked[len(pairs) % len(asked)]
        turns = [WHOLE, chosen.setting][:: 1 if len(pairs) % 2 else -1]
        taken = {s: await first_token_seconds(endpoint, question, s) for s in turns}
        pairs.append([taken[WHOLE], taken[chosen.setting]])
        with common.appended_lines(path) as append:
            append({"setting": name, "seconds": pairs[-1]})
        progress.show("timing the first token")
    return Times(*zip(*pairs, strict=True))


def _settings(args: argparse.Namespace) -> list[Setting]:
    """What is tried."""
    for ratio in args.ratios:
        if not 0 < ratio < 1:
            raise ValueError(f"--ratios must be above 0 and below 1, got {ratio:g}")
    return grid(args.ratios, args.modes, args.sources)[1:]


def _accepted(args: argparse.Namespace) -> tuple[float, float]:
    """The largest loss, 0.01 for one point, and the probability of an error."""
    if not 0 < args.loss < 100:
        raise ValueError(f"--loss must be above 0 and below 100 points, got {args.loss:g}")
    if not 50 <= args.sure < 100:
        raise ValueError(f"--sure must be at least 50 and below 100 %, got {args.sure:g}")
    return args.loss / 100, 1 - args.sure / 100


def _questions(args: argparse.Namespace) -> tuple[list[Question], dict[str, Any]]:
    """What is asked, and what tells it from other questions."""
    found: Iterable[Question]
    if args.log:
        found, source = read_log(args.log), args.log
    elif args.questions:
        found, source = folder_questions(args.questions), args.questions / FILE
    elif args.model != SCRIPT_DEMO and (args.url or args.model):
        raise ValueError(
            "there is no truth to compare with; give --questions FOLDER with questions and "
            "answers, or --log FILE with chat requests, whose unpruned answers are then the truth"
        )
    else:
        found, source = demo_questions("test", args.limit or DEMO_QUESTIONS), None
    questions: list[Question] = list(itertools.islice(found, args.limit))
    for question in questions:
        check(question)
    name = f"{SCRIPT_DEMO}'s test split"
    if source is not None:
        name = f"{source.name} {hashlib.sha256(source.read_bytes()).hexdigest()[:12]}"
    run = {"questions": f"{len(questions)} of {name}", "max_tokens": args.max_tokens}
    return questions, run


@contextmanager
def _server(args: argparse.Namespace) -> Iterator[str]:
    """Address of the server at --url, or of one that lives as long as it is needed."""
    if args.url:
        if not args.url.startswith(("http://", "https://")):
            raise ValueError(
                f"{args.url} is no address of a server; give one such as http://host:8000"
            )
        yield args.url.rstrip("/").removesuffix("/v1") + "/v1"
        return
    model = args.model or SCRIPT_DEMO
    check_known(model)
    flags = ["--plugin", "script", *args.server_flags]
    env = {}
    if common.accelerator() is None:
        flags.append("--enforce-eager")  # else it compiles for minutes
        env["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
    print(f"$ vllm serve {model} {shlex.join(flags)}", file=sys.stderr)
    with VllmServer(model, *flags, env=env, progress=show_waiting(model)) as server:
        yield server.url


class Progress:
    """One line that says what is asked, how often, and what was lost so far."""

    def __init__(self, losses: Losses) -> None:
        self._losses, self._last, self._in_place = losses, 0.0, sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._in_place:
            print(file=sys.stderr)

    def show(self, line: str) -> None:
        """Show a line, on a terminal in place and elsewhere every ten seconds."""
        if (now := time.monotonic()) - self._last < (0.2 if self._in_place else 10):
            return
        self._last = now
        line = f"{len(self._losses.known)} answers, {line}"
        start, end = ("\r\033[K", "") if self._in_place else ("", "\n")
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
