"""All that is run, part by part: the command, what it needs, and what it must have left behind."""

from __future__ import annotations

import os
import shutil
import sys
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ..checkpoints import MODELS, NAMED
from ..common import read_lines, write_lines
from ..kernel.inputs import FULL
from ..serving.results import Results
from .machine import Machine

GIB = 2**30
LIMIT = 600
"""Seconds that a part may take."""
KEEP_RATIO = 0.11
CONCURRENCY = {1: (16, 5), 8: (48, 3), 32: (128, 3)}
"""Requests at a time -> requests of a block, blocks of each server."""
API_PROCESSES = 4
"""Of each server, where several requests come at a time: one alone preprocesses fewer pictures a
second than a large GPU prunes. What one knows of a picture, the others do not."""


class Served(NamedTuple):
    """A model with random weights that stock vLLM and the plugin are compared on."""

    picture: str
    """Size of its pictures."""
    weights_gib: float
    gpu_gib: float
    """Memory of a GPU on which there is room for two servers at 45 % each."""
    flags: tuple[str, ...] = ()
    """Of both servers."""


SERVED = {
    "llava-next-7b": Served("672x672", 14, 44),
    "qwen2.5-vl-3b": Served("1008x1008", 7.5, 30, ("--limit-mm-per-prompt", '{"video": 0}')),
}
LONG_TESTS = "test_selection or against_the_cpu"
"""Of the kernels' tests those that take as long as all others, for pytest's -k."""
SANITIZERS = ("memcheck", "racecheck", "synccheck")


@dataclass(frozen=True)
class Part:
    """One command, and what it takes for it to have passed."""

    name: str
    title: str
    """What it does, for whoever watches."""
    arguments: Sequence[str]
    """Of Python, run in the checkout."""
    found: Callable[[], str]
    """What it found, in a few words, from what it has left behind. Raises ValueError, KeyError or
    OSError unless that is all that it should be."""
    missing: Callable[[Machine], str | None] = lambda machine: None
    """Why it cannot be run on a machine, if it cannot."""
    limit: float = LIMIT
    """Seconds that it may take."""
    forget: Callable[[], None] = lambda: None
    """Forget what it has measured, where it would not measure it again."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, *self.arguments]


def all_parts(folder: Path, root: Path) -> list[Part]:
    """All parts, in the order in which they are run.

    Args:
        folder: where they leave their results.
        root: the checkout.
    """
    out = _Paths(folder, root)
    return [
        *_tests(out),
        *_strict(out),
        *_kernels(out),
        *(part for model in SERVED for part in _served(model, out)),
    ]


@dataclass(frozen=True)
class _Paths:
    """The folder of results, as commands are given it: from the checkout, if it lies in there."""

    folder: Path
    root: Path

    def __call__(self, name: str) -> str:
        path = self.folder / name
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)


def _tests(out: _Paths) -> Iterator[Part]:
    """The tests that only a GPU can pass, and the kernels under compute-sanitizer."""
    kernels = {
        "tests-kernels": f"not ({LONG_TESTS}) and not sanitizer",
        "tests-selection": f"({LONG_TESTS}) and not sanitizer",
    }
    sanitizers = {f"sanitizer-{tool}": f"sanitizer and {tool}" for tool in SANITIZERS}
    for name, chosen in {"tests-worker": None, **kernels, **sanitizers}.items():
        tool = name.partition("-")[2]
        where = "tests/worker" if chosen is None else "tests/kernels"
        only = [] if chosen is None else ["-k", chosen]
        report = f"{name}.xml"
        arguments = ["-m", "pytest", where, "-m", "gpu", *only, "-rs", "-p", "no:cacheprovider"]
        yield Part(
            name,
            f"the kernels under compute-sanitizer's {tool}"
            if name in sanitizers
            else f"tests of the {tool} that need a GPU",
            [*arguments, f"--junitxml={out(report)}"],
            partial(_tests_found, out.folder / report),
            _no_sanitizer if name in sanitizers else partial(_no_module, "pytest"),
        )


def _strict(out: _Paths) -> Iterator[Part]:
    """Servers that fail as soon as they wait for the GPU or compile anything."""
    for model in ("script-demo", "qwen2.5-vl-20m"):
        name = f"strict-{model}"
        yield Part(
            name,
            f"{model} served with vLLM's checks for waits and compilation",
            ["benchmarks/strict_serving.py", "--model", model, "--out", out(name)],
            partial(_strict_found, out.folder / name / "checks.jsonl"),
        )


def _kernels(out: _Paths) -> Iterator[Part]:
    """Times of the kernels: those that are promised, then all shapes."""
    chosen = {"kernels": ["--quick"]}
    chosen |= {f"kernels-{tokens}": ["--tokens", str(tokens)] for tokens in FULL[0]}
    for name, shapes in chosen.items():
        file = f"{name}.jsonl"
        yield Part(
            name,
            "times of the kernels"
            + ("" if name == "kernels" else f", all shapes of {shapes[1]} tokens"),
            ["benchmarks/kernel_bench.py", *shapes, "--json", out(file)],
            partial(_kernels_found, out.folder / file),
        )


def _served(model: str, out: _Paths) -> Iterator[Part]:
    """Stock vLLM against the plugin, a part for each number of requests at a time."""
    served = SERVED[model]
    missing = partial(_no_room, model, out.root)
    weights = str(MODELS / model)
    family, sizes = NAMED[model]
    yield Part(
        f"weights-{model}",
        f"random weights of a {model} written to {weights}",
        ["benchmarks/checkpoint.py", weights, "--family", family, "--sizes", sizes, "--if-absent"],
        partial(_weights_found, out.root / weights),
        missing,
    )
    folder = f"serve-{model}"
    results = out.folder / folder / "results.jsonl"
    for at_once, (requests, repetitions) in CONCURRENCY.items():
        arguments = ["benchmarks/serve_bench.py", "--model", model, "--out", out(folder)]
        arguments += ["--sizes", served.picture, "--keep-ratios", str(KEEP_RATIO), "--rates"]
        arguments += ["--concurrency", str(at_once), "--requests", str(requests)]
        arguments += ["--repetitions", str(repetitions)]
        processes = API_PROCESSES if at_once > 1 else 1
        arguments += ["--", "--api-server-count", str(processes), *served.flags]
        cell = f"{served.picture}, concurrency {at_once}"
        yield Part(
            f"{folder}-{at_once}",
            f"{model}, stock vLLM against the plugin, {at_once} requests at a time",
            arguments,
            partial(_served_found, results, cell),
            missing,
            forget=partial(_forget, results, cell),
        )


def _no_module(name: str, machine: Machine) -> str | None:
    return None if find_spec(name) else f"this Python has no {name}"


def _no_sanitizer(machine: Machine) -> str | None:
    cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    tool = "compute-sanitizer"
    if shutil.which(tool) or shutil.which(tool, path=f"{cuda}/bin"):
        return _no_module("pytest", machine)
    return f"{tool}, of the CUDA toolkit, is not on PATH nor in CUDA_HOME"


def _no_room(model: str, root: Path, machine: Machine) -> str | None:
    """Why the GPU or the disk is too small for a model, if one is, or which package is missing."""
    _, weights, least, _ = SERVED[model]
    if machine.gib < least:
        return f"two servers need {least:g} GiB of GPU memory, this one has {machine.gib:.0f}"
    free = shutil.disk_usage(root).free / GIB
    if not (root / MODELS / model).exists() and free < weights + 1:
        return f"its weights take {weights:g} GiB of disk, {free:.0f} are free"
    return _no_module("scipy", machine) or _no_module("matplotlib", machine)


def _tests_found(report: Path) -> str:
    """Counts of a report of pytest in the format of JUnit."""
    suites = xml.parse(report).getroot().iter("testsuite")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in suites:
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    bad = counts["failures"] + counts["errors"]
    passed = counts["tests"] - bad - counts["skipped"]
    found = f"{passed} passed, {bad} failed, {counts['skipped']} skipped"
    if bad or not passed:
        raise ValueError(found)
    return found


def _strict_found(checks: Path) -> str:
    """What the checks of strict_serving.py found."""
    lines = read_lines(checks)
    if not lines or not all(line["passed"] for line in lines):
        failed = [f"{line['name']}: {line['found']}" for line in lines if not line["passed"]]
        raise ValueError("; ".join(failed) or "it has written no checks")
    return f"{lines[0]['found']}, and nothing in the log"


def _kernels_found(rows: Path) -> str:
    lines = read_lines(rows)
    if not any(line["variant"] == "triton" for line in lines):
        raise ValueError("no kernel was timed")
    return f"{len(lines)} times"


def _weights_found(folder: Path) -> str:
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"no weights in {folder.name}")
    return f"{sum(path.stat().st_size for path in files) / GIB:.1f} GiB"


def _served_found(results: Path, cell: str) -> str:
    stock, pruned = Results(results).of(cell)
    rates = [line["requests_per_s"] for line in (stock, pruned)]
    return f"{rates[1]:.2f} requests/s, stock vLLM {rates[0]:.2f}"


def _forget(results: Path, cell: str) -> None:
    """Remove a cell from the file of results."""
    if results.exists():
        write_lines(results, [line for line in read_lines(results) if line["cell"] != cell])
