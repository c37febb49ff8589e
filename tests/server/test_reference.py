"""The tables of settings and metrics in server/README.md are those that the code makes."""

import pytest

from vllm_script.config import QUERY, SETTINGS
from vllm_script.server.reference import (
    README,
    TABLES,
    metrics_table,
    settings_table,
    with_tables,
)

BLANK = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in TABLES)


def test_the_page_holds_the_tables_of_today():
    page = README.read_text(encoding="utf-8")
    assert page == with_tables(page), "run `make docs`"


def test_a_row_for_every_setting():
    rows = settings_table().splitlines()[3:]
    for row, each in zip(rows, (*SETTINGS, QUERY), strict=True):
        assert f"| `{each.key}` |" in row and each.meaning in row
        assert (each.flag or "|  |") in row
        assert each.shown_default in row.split("|")[-2]
        assert row.count("|") == 6


def test_parameters_name_the_modes_that_read_them():
    rows = settings_table().splitlines()
    for name, readers in ("pool_ratio", "modes script, gsp"), ("seed", "mode random"):
        (row,) = [row for row in rows if f"`{name}`" in row]
        assert f"Read by the {readers}. |" in row


def test_rows_of_metrics():
    rows = metrics_table().splitlines()[2:]
    kinds = {tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows}
    assert ("`script_images_total{mode,relevance,query}`", "counter") in kinds
    assert ("`script_encoder_seconds`", "histogram") in kinds
    assert ("`script_cache_bytes{cache}`", "gauge") in kinds
    assert all(row.count("|") == 4 and row.endswith(". |") for row in rows)


def test_the_rest_of_a_page_is_left_alone():
    changed = with_tables(f"# Title\n\n{BLANK}\nMore.\n")
    assert changed.startswith("# Title\n\n<!-- settings -->\n") and changed.endswith("\nMore.\n")
    assert settings_table() in changed and metrics_table() in changed
    assert with_tables(changed) == changed


@pytest.mark.parametrize("page", ["", "<!-- settings -->\n", 2 * BLANK])
def test_a_page_needs_its_marks(page):
    with pytest.raises(ValueError, match="<!-- settings --> and one line <!-- /settings -->"):
        with_tables(page)
