"""The page with the figures says what the committed files say."""

from pathlib import Path

import pytest

from vllm_script import benchmarks
from vllm_script.benchmarks.common import read_lines
from vllm_script.benchmarks.photos.results import MEASURES

FOLDER = Path(benchmarks.__file__).parent
COLUMNS = ("photos-held-out-dinov2", "photos-held-out-lite0")
ROWS = {
    "`script`, wrong sign": "script, text, wrong sign",
    "`script`, mask with the smaller noise": "script, mask + noise 1",
    "`script`, perfect relevance": "script, mask",
    "`cdpruner`, perfect relevance": "cdpruner, mask",
    **{f"`{mode}`": mode for mode in ("gsp", "divprune", "uniform", "random")},
}


@pytest.fixture(scope="module")
def figures(committed):
    """Figures of each committed run at keep ratio 0.11: (run, method) -> one of each measure."""
    found = {}
    for run in COLUMNS:
        for line in read_lines(committed(run).with_suffix(".jsonl"))[1:]:
            if line["column"] == "0.11" and line["table"] in [each.title for each in MEASURES]:
                found.setdefault((run, line["row"]), []).append(line["value"])
    return found


@pytest.mark.parametrize("row", ROWS)
def test_table(row, figures):
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    (line,) = (
        each for each in page.splitlines() if each.startswith(f"| {row} |") and " / " in each
    )
    for cell, run in zip(line.split("|")[2:4], COLUMNS, strict=True):
        values = figures.get((run, ROWS[row]), ())
        assert cell.strip() == " / ".join(f"{value:.3f}" for value in values)


def test_lines_and_report_agree(committed):
    for run in COLUMNS:
        text = committed(run).read_text(encoding="utf-8")
        for line in read_lines(committed(run).with_suffix(".jsonl"))[1:]:
            assert f"## {line['table']}\n" in text and f"| {line['row']} |" in text
