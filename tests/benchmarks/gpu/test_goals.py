"""What is made of the figures: the goals, and the page that begins with them."""

import pytest
import torch

from vllm_script.benchmarks.common import write_lines
from vllm_script.benchmarks.gpu.goals import MET, MISSED, goals
from vllm_script.benchmarks.gpu.outcomes import FAILED, NOT_RUN, PASSED, Outcome, Outcomes
from vllm_script.benchmarks.gpu.parts import all_parts
from vllm_script.benchmarks.gpu.report import write_report
from vllm_script.benchmarks.kernel.columns import row_of
from vllm_script.benchmarks.kernel.inputs import Shape
from vllm_script.benchmarks.kernel.ops import Run
from vllm_script.benchmarks.kernel.timing import Times, Work
from vllm_script.benchmarks.serving.results import Results

LLAVA = {batch: Shape(2880, 4096, 0.11, 322, batch) for batch in (1, 8)}
SMALL = Shape(576, 4096, 0.11, 63, 1)
PEAK = Work(3e12, 8e14)
TESTS, SANITIZER, STRICT, ONE, EIGHT, PREFILL, REQUESTS = range(7)


def run():
    """Nothing: times are given."""


def times(milliseconds):
    """Of a call that takes so long, and a little longer from a cold cache."""
    p50 = milliseconds / 1e3
    return Times(p50, p50, p50, 1.1 * p50, 8e-5)


@pytest.fixture
def found(tmp_path, cell, lines):
    """found(ms of one image, of eight, prefill and requests/s in times) -> a folder of results."""

    def make(one=0.4, eight=1.2, prefill=7.0, requests=3.2):
        rows = [
            row_of(Run("selection", variant, run), shape, torch.bfloat16, times(ms), 3, PEAK)
            for shape, own in (*((LLAVA[n], ms) for n, ms in ((1, one), (8, eight))), (SMALL, 0.1))
            for variant, ms in (("triton", own), ("one by one", 8 * own), ("eager", 50.0))
        ]
        write_lines(tmp_path / "kernels.jsonl", rows)
        folder = tmp_path / "serve-llava-next-7b"
        folder.mkdir()
        results = Results(folder / "results.jsonl")
        for concurrency in (1, 8, 32):
            each = cell(concurrency, picture="672x672")
            stock, pruned = lines(each, requests)
            stock["split_ms"]["prefill"] = 110.0  # with the encoder, that takes 10 ms
            pruned["split_ms"]["prefill"] = 100.0 / prefill
            results.add(each, [stock, pruned])
        return tmp_path

    return make


@pytest.fixture
def names(tmp_path):
    """Names of all parts."""
    return [part.name for part in all_parts(tmp_path, tmp_path)]


@pytest.fixture
def outcomes(tmp_path, names):
    """outcomes({part: (status, what was found)}) -> of all parts; the others have passed."""

    def make(changes=None):
        made = Outcomes(tmp_path / "outcomes.jsonl")
        for name in names:
            status, text = (changes or {}).get(name, (PASSED, "3 passed"))
            made.add(Outcome(name, status, text, started="2026-11-25 10:00", log=f"{name}.log"))
        return made

    return make


def verdicts(*arguments):
    return [goal.verdict for goal in goals(*arguments)]


def test_all_are_met(found, outcomes, names):
    kept = goals(outcomes(), found(), names)
    assert [goal.verdict for goal in kept] == [MET] * 7
    assert kept[TESTS].figure.startswith("tests-worker: 3 passed; tests-kernels: 3 passed")
    assert kept[ONE].figure == "0.400 ms; from a cold L2 cache 0.440, enqueued in 0.080"
    assert kept[EIGHT].figure.startswith("1.200 ms; ")
    assert kept[PREFILL].figure == "7.00 times: 100.0 ms, then 14.3 ms"
    assert kept[REQUESTS].figure == "3.20 times: 5.00, then 16.00"


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        ({"one": 0.51}, ONE),
        ({"eight": 1.51}, EIGHT),
        ({"prefill": 6.7}, PREFILL),
        ({"requests": 2.9}, REQUESTS),
    ],
    ids=str,
)
def test_a_figure_that_is_not_enough(found, outcomes, names, figures, missed):
    expected = [MISSED if number == missed else MET for number in range(7)]
    assert verdicts(outcomes(), found(**figures), names) == expected


@pytest.mark.parametrize(
    ("part", "concerned"),
    [
        ("tests-selection", [TESTS]),
        ("sanitizer-racecheck", [SANITIZER]),
        ("strict-script-demo", [STRICT]),
        ("kernels", [ONE, EIGHT]),
        ("serve-llava-next-7b-1", [PREFILL]),
        ("serve-llava-next-7b-32", [REQUESTS]),
        ("serve-qwen2.5-vl-3b-32", []),
    ],
)
@pytest.mark.parametrize(("status", "verdict"), [(FAILED, MISSED), (NOT_RUN, NOT_RUN)])
def test_a_part_that_is_needed(found, outcomes, names, part, concerned, status, verdict):
    kept = goals(outcomes({part: (status, "no room")}), found(), names)
    expected = [verdict if number in concerned else MET for number in range(7)]
    assert [goal.verdict for goal in kept] == expected
    assert all(f"{part}: no room" in kept[number].figure for number in concerned)


def test_figures_that_are_not_there(found, outcomes, names):
    """A part has passed, and yet its results have no such figure: the report is still written."""
    folder = found()
    write_lines(folder / "kernels.jsonl", [])
    results = Results(folder / "serve-llava-next-7b" / "results.jsonl")
    for line in results.lines:
        line["split_ms"]["encoder"] = None
    write_lines(results.path, results.lines)
    kept = goals(outcomes(), folder, names)
    assert [goal.verdict for goal in kept] == [MET] * 3 + [MISSED] * 3 + [MET]
    assert "has not counted its encoder" in kept[PREFILL].figure


def test_nothing_was_run(tmp_path, names):
    kept = goals(Outcomes(tmp_path / "none.jsonl"), tmp_path, names)
    assert {goal.verdict for goal in kept} == {NOT_RUN}
    assert all("it was not asked for" in goal.figure for goal in kept)


def test_the_page(tmp_path, found, outcomes, names, machine):
    folder, kept, parts = found(), outcomes(), all_parts(tmp_path, tmp_path)
    (folder / "serve-llava-next-7b" / "report.md").write_text("all figures")
    verdict = goals(kept, folder, names)
    write_report(tmp_path / "page", folder, machine(), "the command", parts, kept, verdict)
    page = (tmp_path / "page" / "README.md").read_text()
    rows = page.splitlines()
    assert rows[2:4] == ["| goal | figure | verdict |", "| --- | --- | --- |"]
    assert all(row.endswith("| met |") for row in rows[4:11]) and rows[11] == ""
    assert "- date: 2026-11-25" in rows
    timed = [row.strip("| ").split(" | ") for row in rows if row.startswith("| selection |")]
    assert [(row[1], row[5], row[7]) for row in timed if row[1] == "triton"] == [
        ("triton", "1", "0.400"), ("triton", "8", "1.200"),
    ]  # fmt: skip
    served = [row.strip("| ").split(" | ") for row in rows if row.startswith("| 32 |")]
    header = next(row for row in rows if row.startswith("| at a time")).strip("| ").split(" | ")
    stock, pruned = (dict(zip(header, row, strict=False)) for row in served)
    assert (stock["encoder"], stock["prefill"], pruned["encoder"]) == ("", "110.00", "10.00")
    assert (pruned["selection"], pruned["ITL p99"]) == ("1.00", "15.00")
    assert pruned["requests/s times stock's"].startswith("3.20 (")
    assert "is 7.00 times shorter, 6.54 times with selection counted in" in page
    assert "## qwen2.5-vl-3b" not in page  # it was not measured
    links = {path.name for path in (tmp_path / "page").iterdir()} - {"README.md"}
    assert links == {
        *("outcomes.jsonl", "kernels.jsonl", "serve-llava-next-7b-report.md"),
        "serve-llava-next-7b-results.jsonl",
    }
    assert all(f"- [{name}]({name})" in rows for name in links)
