"""One task of lmms-eval in one setting: run it once, and read what came of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common import read_lines, write_lines
from .environment import clean_environment
from .settings import Setting
from .tasks import metrics_of, score_of

ANSWERS = "answers.jsonl"
"""What the plugin writes, a line for each question; the newest line of a question counts."""


@dataclass(frozen=True)
class Server:
    """Where a setting is asked."""

    url: str
    model: str
    """The name of the model there."""
    stock: bool
    """Whether it is not ours, so that requests have no `script` field."""
    media_root: Path | None = None
    """A folder that it may read videos in."""


@dataclass(frozen=True)
class Cell:
    """What one task says of one setting."""

    setting: str
    task: str
    score: float
    """As papers have it."""
    metrics: dict[str, float]
    """All that lmms-eval computed."""
    questions: int
    refused: int
    """Questions that the server refused; they count as answered with nothing."""
    prompt_tokens: float
    """Of a question that was answered, on average."""
    visual_tokens: float | None
    """Of a question that was answered, on average; None where the server does not show prompts."""


@dataclass(frozen=True)
class Lmms:
    """lmms-eval and what all of its runs have in common.

    Args:
        python: of its environment.
        out: folder of results; that of a run is setting/task in it.
        limit: questions of a task at most.
        include: a folder of further tasks, as `lmms-eval --include_path` has it.
    """

    python: Path
    out: Path
    concurrency: int
    limit: int | None = None
    include: Path | None = None

    def folder(self, setting: Setting, task: str) -> Path:
        """Where a run's files are."""
        return self.out / setting.folder / task

    def is_done(self, setting: Setting, task: str) -> bool:
        """Whether a run has ended with a result."""
        return _newest_result(self.folder(setting, task)) is not None

    def run(self, setting: Setting, task: str, server: Server) -> None:
        """Ask and score; what was answered by an earlier run that did not end is not asked again.

        Raises:
            RuntimeError: lmms-eval ended without a result.
        """
        folder = self.folder(setting, task)
        folder.mkdir(parents=True, exist_ok=True)
        command = self._command(setting, task, server)
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            subprocess.run(command, env=clean_environment(), stdout=log, check=False)
        if not self.is_done(setting, task):  # its status says nothing: lmms-eval 0.7 ends with 0
            said = (folder / "log.txt").read_text(encoding="utf-8").splitlines()
            errors = [line for line in said if "ERROR" in line] or ["it says nothing"]
            why = re.sub(r"\x1b\[\d*m", "", errors[-1])
            raise RuntimeError(
                f"lmms-eval has no result of {task}, {setting} ({why}; all of it is in "
                f"{folder / 'log.txt'}). Answers so far are kept: the same command goes on"
            )

    def cell(self, setting: Setting, task: str) -> Cell:
        """What a run that is done has found.

        Raises:
            ValueError: lmms-eval has not computed the metric that papers report.
        """
        folder = self.folder(setting, task)
        result = _newest_result(folder)
        assert result is not None, "a run that is not done has no cell"
        metrics = metrics_of(json.loads(result.read_text(encoding="utf-8"))["results"])
        newest = {(line["task"], line["doc"]): line for line in read_lines(folder / ANSWERS)}
        answered = [line for line in newest.values() if line["refused"] is None]
        return Cell(
            setting=str(setting),
            task=task,
            score=score_of(task, metrics),
            metrics=metrics,
            questions=len(newest),
            refused=len(newest) - len(answered),
            prompt_tokens=_mean([line["prompt_tokens"] for line in answered]),
            visual_tokens=_mean_of_known([line["visual_tokens"] for line in answered]),
        )

    def _command(self, setting: Setting, task: str, server: Server) -> list[str]:
        folder = self.folder(setting, task)
        model: dict[str, Any] = {
            "url": server.url,
            "model": server.model,
            "answers": folder / ANSWERS,
            "concurrency": self.concurrency,
        }
        if not server.stock:
            model["script"] = json.dumps(setting.script)
        if setting.tokens_per_crop is not None:
            model["tokens_per_crop"] = setting.tokens_per_crop
        if server.media_root is not None:
            model["media_root"] = server.media_root
        arguments = ",".join(f"{name}={value}" for name, value in model.items())
        command = [str(self.python), "-m", "lmms_eval", "--model", "vllm_script"]
        command += ["--model_args", arguments, "--tasks", task, "--output_path", str(folder)]
        if self.limit is not None:
            command += ["--limit", str(self.limit)]
        if self.include is not None:
            command += ["--include_path", str(self.include)]
        return command


def save(path: Path, about: dict[str, Any], cells: Sequence[Cell]) -> None:
    """Write one line about the run, and one for each cell."""
    write_lines(path, [about, *map(asdict, cells)])


def load(path: Path) -> tuple[dict[str, Any], list[Cell]]:
    """Read what `save` has written."""
    about, *lines = read_lines(path)
    return about, [Cell(**line) for line in lines]


def _newest_result(folder: Path) -> Path | None:
    return max(folder.rglob("*_results.json"), default=None)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 1) if values else 0.0


def _mean_of_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known and len(known) == len(values) else None
