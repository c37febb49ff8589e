"""The table of settings in server/README.md is the one that config.py makes."""

import pytest

from vllm_script.config import QUERY, SETTINGS
from vllm_script.server.settings_table import BEGIN, END, README, settings_table, with_table


def test_the_page_holds_the_table_of_today():
    page = README.read_text(encoding="utf-8")
    assert page == with_table(page), "run `make docs`"


def test_a_row_for_every_setting():
    rows = settings_table().splitlines()[3:]
    for row, each in zip(rows, (*SETTINGS, QUERY), strict=True):
        assert f"| `{each.key}` |" in row and each.meaning in row
        assert (each.flag or "|  |") in row
        assert each.shown_default in row.split("|")[-2]
        assert row.count("|") == 6


def test_parameters_name_the_modes_that_read_them():
    (row,) = [row for row in settings_table().splitlines() if "`pool_ratio`" in row]
    assert "Read by the mode script. |" in row


def test_the_rest_of_a_page_is_left_alone():
    page = f"# Title\n\n{BEGIN}old\n{END}\nMore.\n"
    changed = with_table(page)
    assert changed == f"# Title\n\n{BEGIN}\n{settings_table()}\n{END}\nMore.\n"
    assert with_table(changed) == changed


@pytest.mark.parametrize("page", ["", BEGIN, END + BEGIN, 2 * (BEGIN + END), BEGIN + 2 * END])
def test_a_page_needs_its_marks(page):
    with pytest.raises(ValueError, match="<!-- settings --> and one line <!-- /settings -->"):
        with_table(page)
