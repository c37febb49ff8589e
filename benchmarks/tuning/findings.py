"""What a search has found: in words, as a table, as lines, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..accuracy.settings import WHOLE, Setting
from ..common import bullets, figure, markdown
from .log import media_parts
from .search import Search, Tried


@dataclass(frozen=True)
class Times:
    """Seconds to the first token of the same requests, one at a time."""

    whole: Sequence[float]
    """Unpruned."""
    pruned: Sequence[float]
    """In the setting that was chosen."""


def flags_of(setting: Setting) -> str:
    """The flags of `vllm serve` for a setting."""
    flags = f"--keep-ratio {setting.keep_ratio:g} --script-mode {setting.mode}"
    return flags if setting.relevance is None else f"{flags} --script-relevance {setting.relevance}"


def report(search: Search, about: dict[str, Any], times: Times | None) -> str:
    """All of it, the flags first."""
    sure, limit = 100 * (1 - search.error), 100 * search.limit
    promise = (
        f"If these questions are drawn at random from those that will be asked, each on its own, "
        f"then with {sure:g} % confidence nothing that is called shown loses more than {limit:g} "
        f"points. Each bound of a loss holds with {sure:g} %, whenever one looks. "
        f"{len(search.comparing)} questions chose the method, and the other "
        f"{len(search.testing)} tested it, from the largest keep ratio down."
    )
    parts = [_answer(search, times), bullets(about), promise]
    parts.append("## Tested\n\n" + _table(search, search.tested))
    if search.compared:
        text = "The bounds are those of one setting alone, and choose nothing."
        parts.append(f"## Compared\n\n{text}\n\n{_table(search, list(search.compared.values()))}")
    return "\n\n".join(parts) + "\n"


def lines(search: Search, about: dict[str, Any], times: Times | None) -> list[dict[str, Any]]:
    """A line about the run, and one for each setting that was tried."""
    chosen = asdict(search.chosen.setting) if search.chosen else None
    first = {**about, "chosen": chosen, "first_token_seconds": times and asdict(times)}
    return [first] + [
        {"stage": stage, **asdict(tried.setting), "shown": tried.shown}
        | {"losses": tried.losses.tolist()}
        for stage, tried in _all(search)
    ]


def plot(search: Search, path: Path) -> None:
    """Draw the loss of each method against the keep ratio; the dashed line is the limit."""
    groups: dict[str, list[Tried]] = {}
    for stage, tried in _all(search):
        groups.setdefault(f"{tried.setting.method}, {stage}", []).append(tried)
    with figure(path) as axes:
        for index, (name, group) in enumerate(groups.items()):
            shift = 1 + 0.01 * index  # intervals beside each other
            means = [100 * tried.losses.mean() for tried in group]
            low = [100 * search.bet.at_least(tried.losses) for tried in group]
            high = [100 * search.bet.at_most(tried.losses) for tried in group]
            is_test = name.endswith("tested")
            axes.errorbar(
                [shift * tried.setting.keep_ratio for tried in group],
                means,
                # The bounds hold at all times, so a mean may have left them; a bar then ends there.
                [
                    [max(0, mean - bound) for mean, bound in zip(means, low, strict=True)],
                    [max(0, bound - mean) for mean, bound in zip(means, high, strict=True)],
                ],
                label=name,
                marker="o",
                markersize=6 if is_test else 3,
                linewidth=2 if is_test else 0.8,
                elinewidth=1.5 if is_test else 0.4,
                alpha=1 if is_test else 0.5,
            )
        axes.axhline(100 * search.limit, color="black", linestyle="--", label="accepted")
        axes.set_ylim(-300 * search.limit, 500 * search.limit)  # what loses more is off the picture
        ratios = sorted({setting.keep_ratio for setting in search.settings})
        axes.set_xscale("log")
        axes.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        axes.minorticks_off()
        axes.set_xlabel("keep ratio")
        axes.set_ylabel(f"loss in points ({100 * (1 - search.error):g} % bounds)")
        axes.grid(alpha=0.3)


def _all(search: Search) -> Iterator[tuple[str, Tried]]:
    """All that was tried, those first that were tested."""
    yield from (("tested", tried) for tried in search.tested)
    yield from (("compared", tried) for tried in search.compared.values())


def _answer(search: Search, times: Times | None) -> str:
    """The flags with what they cost and save, and why nothing smaller was shown."""
    last = search.tested[-1]
    if (chosen := search.chosen) is None:
        return (
            f"Nothing is shown to lose at most {100 * search.limit:g} points.\n{_why(search, last)}"
        )
    asked = search.testing[: len(chosen.losses)]
    whole, pruned = (search.losses.prompt_tokens(asked, s) for s in (WHOLE, chosen.setting))
    pictures = sum(len(media_parts(question.request["messages"])) for question in asked)
    saved = (whole - pruned) * len(asked) / pictures
    text = [
        f"    vllm serve {search.losses.endpoint.model} --plugin script {flags_of(chosen.setting)}",
        "",
        f"- {search.in_points(chosen)}, of which {100 * search.losses.right(asked):.0f} % are "
        "answered right unpruned",
        f"- tokens: {whole:.0f} -> {pruned:.0f} of a prompt, {saved:.0f} fewer a picture",
    ]
    if times is not None:
        before, after = median(times.whole), median(times.pruned)
        text.append(
            f"- first token: {before:.3f} -> {after:.3f} s, {before - after:.3f} s sooner (medians "
            f"of {len(times.whole)} requests, one at a time, pictures that no cache has seen)"
        )
    if not last.shown:
        text.append(f"- {_why(search, last)}")
    return "\n".join(text)


def _why(search: Search, tried: Tried) -> str:
    """Why a setting was not shown to keep to the limit, and how many questions it would take."""
    lost = f"{tried.setting} is not shown: {search.in_points(tried)}"
    if (needed := search.bet.would_need(tried.losses)) is None:
        return f"{lost}, more than {100 * search.limit:g}"
    total = round(needed * len(search.questions) / len(search.testing))
    return f"{lost}, which are too few; at this loss it takes about {total} questions in all"


def _table(search: Search, group: Sequence[Tried]) -> str:
    rows = [
        [
            str(tried.setting),
            str(len(tried.losses)),
            search.interval(tried),
            "yes" if tried.shown else "",
        ]
        for tried in group
    ]
    return markdown(["setting", "questions", "loss in points", "shown"], rows)
