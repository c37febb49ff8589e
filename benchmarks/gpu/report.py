"""The folder to commit: a page that begins with the goals, and the figures it is made from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common import bullets, markdown, read_lines
from ..kernel.columns import COLUMNS, cell_of
from ..serving.results import Line, Results, throughput_ratio, ttft_ratio
from .goals import LLAVA_NEXT, Goal, prefill_ms
from .machine import Machine
from .outcomes import FAILED, Outcomes
from .parts import CONCURRENCY, SERVED, Part

PARTS_OF_TTFT = ("preprocess", "queue", "encoder", "selection", "prefill")
"""Of `split_ms`."""
SERVING_NOTES = """\
Milliseconds of a request, means where no percentile is named; ITL is the time between one token
and the next. Stock vLLM does not count its encoder: it is in prefill. Each server has 45 % of the
GPU's memory. Ratios are those of serve_bench.py with their 95 % intervals; its report has all
figures. The weights are random, so the times mean something and the answers do not: how right
answers are at a keep ratio is measured by accuracy_bench.py; a speed without it is no result."""


def write_report(
    into: Path,
    folder: Path,
    machine: Machine,
    command: str,
    parts: Sequence[Part],
    outcomes: Outcomes,
    goals: Sequence[Goal],
) -> None:
    """Write the folder anew.

    Args:
        into: the folder to commit.
        folder: where the parts have left their results.
        command: of this run.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    files = _copied(into, folder)
    header = ["goal", "figure", "verdict"]
    table = markdown(header, [[goal.name, _cell(goal.figure), goal.verdict] for goal in goals])
    about = machine.about | {"date": outcomes.started[:10], "command": command}
    sections = [f"# {machine.gpu}", table, bullets(about), f"## Parts\n\n{_parts(parts, outcomes)}"]
    if rows := read_lines(folder / "kernels.jsonl"):
        sections.append(f"## Kernels\n\n{_kernels(rows)}")
    sections += [_served(model, folder) for model in SERVED if (folder / f"serve-{model}").exists()]
    sections.append("## Files\n\n" + "\n".join(f"- [{name}]({name})" for name in files))
    failed = [outcomes.of(part.name) for part in parts if outcomes.of(part.name).status == FAILED]
    for each in failed:
        log = "\n".join(f"    {line}" for line in each.end_of_log.splitlines())
        sections.append(f"## The end of {each.log}\n\n{log}")
    (into / "README.md").write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _copied(into: Path, folder: Path) -> list[str]:
    """Copy what reports and figures there are, and return their names."""
    wanted = ["outcomes.jsonl", "kernels*.jsonl", "*/report.md", "*/results.jsonl", "*/*.png"]
    for path in sorted(path for pattern in wanted for path in folder.glob(pattern)):
        parts = path.relative_to(folder).parts
        shutil.copyfile(path, into / "-".join(parts))
    return sorted(path.name for path in into.iterdir())


def _parts(parts: Sequence[Part], outcomes: Outcomes) -> str:
    rows = []
    for part in parts:
        outcome = outcomes.of(part.name)
        was_run = bool(outcome.command)
        seconds = f"{outcome.seconds:.0f}" if was_run else ""
        command = f"`{_cell(outcome.command)}`" if was_run else ""
        rows.append([part.name, outcome.status, _cell(outcome.found), seconds, command])
    return markdown(["part", "outcome", "found", "seconds", "command"], rows)


def _kernels(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of kernel_bench.py of which goals are made."""
    rows = [row for row in rows if all(row[name] == LLAVA_NEXT[name] for name in "PDK")]
    table = markdown(
        list(COLUMNS),
        [[_cell(cell_of(name, row[name]).strip()) for name in COLUMNS] for row in rows],
    )
    return f"{table}\n\n`python benchmarks/kernel_bench.py --help` says what each column is."


def _cell(text: str) -> str:
    """A text as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _served(model: str, folder: Path) -> str:
    """One model under every load that was measured."""
    results = Results(folder / f"serve-{model}" / "results.jsonl")
    header = ["at a time", "arm", *PARTS_OF_TTFT, "TTFT p50", "ITL p50", "ITL p99", "requests/s"]
    header += ["TTFT times shorter", "requests/s times stock's"]
    rows, notes = [], [SERVING_NOTES]
    for at_once in CONCURRENCY:
        lines = results.of(f"{SERVED[model].picture}, concurrency {at_once}")
        for line in lines:
            split = [line["split_ms"][name] for name in PARTS_OF_TTFT]
            row = [str(at_once), line["arm"], *("" if x is None else f"{x:.2f}" for x in split)]
            row.append(f"{line['ttft_ms']['p50']:.1f}")
            row += [f"{line['itl_ms'][point]:.2f}" for point in ("p50", "p99")]
            row.append(f"{line['requests_per_s']:.2f}")
            ratios = ["", ""]
            if line is not lines[0]:
                both = ttft_ratio(lines[0], line), throughput_ratio(line, lines[0])
                ratios = [ratio.shown(".2f") for ratio in both]
                if at_once == 1 and line["split_ms"]["encoder"] is not None:
                    notes.append(_prefill(lines[0], line))
            rows.append(row + ratios)
    if not rows:
        return f"## {model}\n\nNothing was measured to its end."
    table = markdown(header, rows)
    return "\n\n".join([f"## {model}, {SERVED[model].picture}", table, *notes])


def _prefill(stock: Line, pruned: Line) -> str:
    """How much shorter prefill is, for one request at a time, in which nobody waits for others."""
    before, after = prefill_ms(stock, pruned)
    selection = pruned["split_ms"]["selection"]
    return (
        f"Prefill of one request at a time, from the encoder's end to the first token, is "
        f"{before / after:.2f} times shorter, {before / (after + selection):.2f} times with "
        "selection counted in. Stock's encoder is taken to be what the plugin measured."
    )
