"""The table of all settings in server/README.md, made from the fields of config.py.

    python -m vllm_script.server.settings_table

writes it between the marks of that page; a test fails where the page holds another.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vllm_script.config import QUERY, SETTINGS
from vllm_script.pruning import MODES
from vllm_script.setting import Setting

from .flags import PLUGIN_MEANING

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- settings -->\n", "<!-- /settings -->\n"


def settings_table() -> str:
    """All settings as a Markdown table: the flag, the key, who may give it, meaning, default."""
    rows = [
        ("flag of `vllm serve`", "key", "in a request", "meaning", "default"),
        ("---",) * 5,
        ("`--plugin script`", "", "", PLUGIN_MEANING, ""),
        *map(_row, (*SETTINGS, QUERY)),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _row(setting: Setting) -> tuple[str, ...]:
    flag = f"`{setting.flag}`" if setting.flag else ""
    request = "only" if setting is QUERY else "yes" if setting.per_request else ""
    meaning = " ".join([setting.description, *_readers(setting.key)])
    default = setting.shown_default if setting.default is None else f"`{setting.shown_default}`"
    return flag, f"`{setting.key}`", request, meaning, default


def _readers(key: str) -> Iterator[str]:
    """Which modes read a parameter of the modes, as a sentence."""
    if modes := [name for name, mode in MODES.items() if key in mode.reads]:
        yield f"Read by the mode{'s' * (len(modes) > 1)} {', '.join(modes)}."


def with_table(page: str) -> str:
    """The text of a page with the table of today between its marks.

    Raises:
        ValueError: the page has not one pair of marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end or BEGIN in rest or END in after:
        raise ValueError(f"the page needs one line {BEGIN.strip()} and one line {END.strip()}")
    return f"{before}{begin}\n{settings_table()}\n{end}{after}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
