"""The page with the figures says what the committed files say."""

from pathlib import Path

import pytest

from vllm_script import benchmarks
from vllm_script.benchmarks.common import read_lines
from vllm_script.benchmarks.photos.results import MEASURES

FOLDER = Path(benchmarks.__file__).parent
COLUMNS = ("photos-held-out-dinov2", "photos-held-out-lite0")
MODES = ("modes-dinov2-layer9", "modes-lite0")
"""The runs of the second table, and the relevance of each."""
RELEVANCE = dict(zip(MODES, ("mask + noise 2", "text"), strict=True))
OTHER_ROWS = {
    f"`{mode}`{', centered' * (geometry != '')}{', no question' * unasked}": (
        mode + geometry,
        unasked,
    )
    for mode, unasked in (
        *(("script", False), ("cdpruner", False), ("coverage", False), ("mmr", False)),
        *(("gsp", True), ("divprune", True), ("coverage", True), ("uniform", True)),
    )
    for geometry in ("", " centered")
    if not (geometry and mode in ("gsp", "uniform"))
}
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
    for run in COLUMNS + MODES:
        for line in read_lines(committed(run).with_suffix(".jsonl"))[1:]:
            if line["column"] == "0.11" and line["table"] in [each.title for each in MEASURES]:
                found.setdefault((run, line["row"]), []).append(line["value"])
    return found


def cells_of(row, section):
    """The two cells of a row in one section of the page."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    (text,) = (part for part in page.split("\n## ") if part.startswith(section))
    (line,) = (
        each for each in text.splitlines() if each.startswith(f"| {row} |") and " / " in each
    )
    return [cell.strip() for cell in line.split("|")[2:4]]


def shown(values):
    return " / ".join(f"{value:.3f}" for value in values)


@pytest.mark.parametrize("row", ROWS)
def test_table(row, figures):
    expected = [shown(figures.get((run, ROWS[row]), ())) for run in COLUMNS]
    assert cells_of(row, "Real photographs") == expected


@pytest.mark.parametrize("row", OTHER_ROWS)
def test_table_of_the_other_modes(row, figures):
    way, unasked = OTHER_ROWS[row]
    methods = [way if unasked else f"{way}, {RELEVANCE[run]}" for run in MODES]
    expected = [shown(figures[run, method]) for run, method in zip(MODES, methods, strict=True)]
    assert cells_of(row, "Other modes") == expected


def test_lines_and_report_agree(committed):
    for run in COLUMNS + MODES:
        text = committed(run).read_text(encoding="utf-8")
        for line in read_lines(committed(run).with_suffix(".jsonl"))[1:]:
            assert f"## {line['table']}\n" in text and f"| {line['row']} |" in text
