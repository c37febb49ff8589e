"""The papers' benchmarks by lmms-eval: stock vLLM, the budgets that were published, and a table.

    python benchmarks/lmms_bench.py --set-up                              # lmms-eval, once
    python benchmarks/lmms_bench.py --model script-demo --tasks scenes    # a try without a network
    python benchmarks/lmms_bench.py --model llava-next --tasks gqa pope mme
    python benchmarks/lmms_bench.py --model NAME --url http://host:8000/v1 --tasks gqa

lmms-eval is installed in an environment of its own. Without --url, `vllm serve MODEL` answers
unpruned, and then `vllm serve MODEL --plugin script` at every budget; flags after `--` go to both.
With --url a server of yours answers all, unpruned too unless there is a --stock-url. Tasks are
lmms-eval's, and `scenes`, which is ours. Data sets come from the hub, for which HF_TOKEN must be
set. Stop it at any time: the same command goes on where it was. Writes OUT/results.jsonl and
report.md, and of every setting and task lmms-eval's own files, its log and all answers.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_script.benchmarks import common
from vllm_script.benchmarks.common import ending_well, machine, parser_of, publish
from vllm_script.benchmarks.lmms_eval import environment, running, scenes
from vllm_script.benchmarks.lmms_eval.running import Lmms, Server
from vllm_script.benchmarks.lmms_eval.settings import UNPRUNED, Setting, settings_of
from vllm_script.benchmarks.lmms_eval.tables import report
from vllm_script.benchmarks.lmms_eval.tasks import FIRST, TASKS
from vllm_script.pruning import MODES
from vllm_script.server.aliases import repository_of
from vllm_script.server.launch import VllmServer

ENVIRONMENT = Path("build/lmms-eval")
"""Where lmms-eval is installed, below the folder that the command is called in."""
HUB = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
"""Where lmms-eval puts videos, which servers of ours may read there."""


def main() -> None:
    args = parse_arguments()
    with ending_well(ValueError, OSError, RuntimeError):
        python = environment.set_up(args.environment)
        if args.set_up:
            print(f"lmms-eval is in {args.environment}")
            return
        settings = settings_of(args.model, args.budgets, args.modes)
        args.out.mkdir(parents=True, exist_ok=True)
        run = {name: getattr(args, name) for name in ("model", "limit", "frames", "server_flags")}
        for before in common.read_lines(args.out / "run.json"):
            common.check_same_run(args.out, before, run)
        common.write_lines(args.out / "run.json", [run])
        include = args.include
        if scenes.NAME in args.tasks:
            if include:
                raise ValueError(f"the task {scenes.NAME} is not in {include}: ask it by itself")
            include = scenes.write_task(args.out / "tasks")
        lmms = Lmms(python, args.out, args.concurrency, args.limit, include)
        measure(args, lmms, settings)
        cells = [lmms.cell(setting, task) for setting in settings for task in args.tasks]
        about = describe(args)
        running.save(args.out / "results.jsonl", about, cells)
        publish(args.out, report(about, settings, cells))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/lmms"), help="folder of results")
    add = parser.add_argument_group("lmms-eval").add_argument
    add("--environment", type=Path, default=ENVIRONMENT, help="folder it is in")
    add("--set-up", action="store_true", help="install it there, and do nothing else")
    add = parser.add_argument_group("what answers").add_argument
    add("--model", default="llava-next", help="model to serve, or its name at --url")
    add("--url", help="a server of ours that is running, with /v1")
    add("--stock-url", help="one of stock vLLM beside it, which answers unpruned")
    add("--concurrency", type=int, default=32, help="requests at once")
    add("--frames", type=int, default=32, help="of a video, at servers that are started")
    add = parser.add_argument_group("what is asked").add_argument
    add("--tasks", nargs="+", default=FIRST, help=f"lmms-eval's; papers have {', '.join(TASKS)}")
    add("--limit", type=int, help="questions of each task at most")
    add("--include", type=Path, help="a folder of tasks of your own")
    add = parser.add_argument_group("how it is pruned").add_argument
    add("--budgets", nargs="+", help="keep ratios (0.1), tokens (64), or tokens a crop (64/crop)")
    add("--modes", nargs="+", choices=list(MODES), help="default: the server's")
    own, flags = common.split_arguments(None)
    args = parser.parse_args(own)
    args.server_flags = flags
    return args


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs to judge and to repeat the run."""
    return {
        "model": args.model,
        "unpruned": "keep ratio 1.0" if args.url and not args.stock_url else "stock vLLM",
        "questions": f"at most {args.limit} of each task" if args.limit else "all of each task",
        "evaluated by": environment.lmms_eval(),
        "machine": "a server" if args.url else machine(),
        **common.repeatable(),
    }


def measure(args: argparse.Namespace, lmms: Lmms, settings: Sequence[Setting]) -> None:
    """Run every task in every setting that has no result yet, on one server after the other."""
    by_stock = [] if args.url and not args.stock_url else [UNPRUNED]
    by_ours = [setting for setting in settings if setting not in by_stock]
    for stock, asked in ((True, by_stock), (False, by_ours)):
        if left := [(s, t) for s in asked for t in args.tasks if not lmms.is_done(s, t)]:
            with server(args, stock) as target:
                for number, (setting, task) in enumerate(left, start=1):
                    print(f"[{number}/{len(left)}] {task}, {setting}", file=sys.stderr)
                    lmms.run(setting, task, target)


@contextmanager
def server(args: argparse.Namespace, stock: bool) -> Iterator[Server]:
    """A server that is running, or one of the model that is started and stopped."""
    if args.url:
        yield Server(args.stock_url if stock else args.url, args.model, stock)
        return
    flags = ["--served-model-name", args.model, "--allowed-local-media-path", str(HUB)]
    flags += ["--media-io-kwargs", json.dumps({"video": {"num_frames": args.frames}})]
    flags += [] if stock else ["--plugin", "script"]
    env = {"VLLM_PLUGINS": ""} if stock else {}
    if common.accelerator() is None:
        flags.append("--enforce-eager")
        env["VLLM_CPU_KVCACHE_SPACE"] = "2"  # GiB
    flags += args.server_flags
    model = repository_of(args.model) or args.model
    print(f"$ vllm serve {model} {shlex.join(flags)}", file=sys.stderr)
    HUB.mkdir(parents=True, exist_ok=True)
    with VllmServer(model, *flags, env=env) as started:
        yield Server(started.url, args.model, stock, HUB)


if __name__ == "__main__":
    main()
