"""The tables of server/README.md that are made from the code: all settings, and all metrics.

    python -m vllm_script.server.reference

writes them between the marks of that page; a test fails where the page holds others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vllm_script.config import QUERY, SETTINGS
from vllm_script.frontend.metrics import metrics
from vllm_script.pruning import MODES
from vllm_script.setting import Setting

from .flags import PLUGIN_MEANING

README = Path(__file__).resolve().parent / "README.md"


def settings_table() -> str:
    """All settings as a Markdown table: the flag, the key, who may give it, meaning, default."""
    head = ("flag of `vllm serve`", "key", "in a request", "meaning", "default")
    plugin = ("`--plugin script`", "", "", PLUGIN_MEANING, "")
    return _table(head, [plugin, *map(_setting_row, (*SETTINGS, QUERY))])


def _setting_row(setting: Setting) -> tuple[str, ...]:
    flag = f"`{setting.flag}`" if setting.flag else ""
    request = "only" if setting is QUERY else "yes" if setting.per_request else ""
    meaning = " ".join([setting.description, *_readers(setting.key)])
    default = setting.shown_default if setting.default is None else f"`{setting.shown_default}`"
    return flag, f"`{setting.key}`", request, meaning, default


def _readers(key: str) -> Iterator[str]:
    """Which modes read a parameter of the modes, as a sentence."""
    if modes := [name for name, mode in MODES.items() if key in mode.reads]:
        yield f"Read by the mode{'s' * (len(modes) > 1)} {', '.join(modes)}."


def metrics_table() -> str:
    """All metrics as a Markdown table: name on /metrics with its labels, type, HELP text."""
    rows = []
    for metric in metrics().all():
        (family,) = metric.describe()
        suffix = "_total" if family.type == "counter" else ""
        labels = f"{{{','.join(metric._labelnames)}}}" if metric._labelnames else ""
        rows.append((f"`{family.name}{suffix}{labels}`", family.type, family.documentation))
    return _table(("metric", "type", "meaning"), rows)


TABLES = {"settings": settings_table, "metrics": metrics_table}
"""Name in the page's marks -> what makes the table between them."""


def with_tables(page: str) -> str:
    """The text of a page with the tables of today between their marks.

    Raises:
        ValueError: the page has not one pair of marks for each table.
    """
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found or begin in rest or end in after:
            raise ValueError(f"the page needs one line {begin.strip()} and one line {end.strip()}")
        page = f"{before}{begin}\n{table()}\n{end}{after}"
    return page


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
