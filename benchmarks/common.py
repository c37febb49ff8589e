"""What every benchmark does around its measurement.

It reads a command line, says where and with what it ran, keeps its results in a file of JSON lines,
shows them as Markdown tables, and ends with a status and a sentence that say how it went.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import io
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PACKAGES = ("vllm-script", "vllm", "torch", "transformers")


def parser_of(doc: str) -> argparse.ArgumentParser:
    """An argument parser whose help is a module's docstring, its lines as they are."""
    summary, details = doc.split("\n", 1)
    return argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def split_arguments(argv: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """A command's own arguments, and those after `--`, which go to the servers it starts."""
    own = list(sys.argv[1:] if argv is None else argv)
    place = own.index("--") if "--" in own else len(own)
    return own[:place], own[place + 1 :]


@contextmanager
def ending_well(*expected: type[Exception]) -> Iterator[None]:
    """End the process in an orderly way, so that the servers started in this block are stopped.

    SIGTERM ends it with status 143, Ctrl-C with 130, and an error of an expected type with status 1
    and one line that has the name of the command and the error's message.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    except expected as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {str(error) or repr(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)


def accelerator() -> str | None:
    """Name of the GPU that vLLM would use, or None on a CPU; CUDA is not started for that."""
    from vllm.platforms import current_platform

    return None if current_platform.is_cpu() else current_platform.get_device_name()


def driver() -> str:
    """Version of the GPU's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        return f"not known ({error})"


def machine() -> str:
    """Name of the GPU, or of the processor with its number of cores."""
    if gpu := accelerator():
        return gpu
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def environment() -> str:
    """The environment variables that vLLM and OpenMP read, as NAME=VALUE, ..."""
    read = {k: v for k, v in sorted(os.environ.items()) if k.startswith(("VLLM_", "OMP_"))}
    return ", ".join(f"{name}={value}" for name, value in read.items())


def repeatable(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """What repeats a run: versions of the packages, date, and command line."""
    return {
        "versions": ", ".join(f"{name} {_version(name)}" for name in packages),
        "date": datetime.date.today().isoformat(),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines; none if it does not exist.

    A line that a killed run has cut short is left out, so that its work is done again.
    """
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


@contextmanager
def appended_lines(path: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that adds an object to the end of a file of JSON lines, at once.

    A line that a killed run has cut short is ended first, so that the next one stands alone.
    """
    with path.open("a+b") as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            if out.read() != b"\n":
                out.write(b"\n")

        def append(line: Mapping[str, Any]) -> None:
            out.write(json.dumps(line).encode() + b"\n")
            out.flush()

        yield append


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines; it is never seen half written."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    draft.replace(path)


def check_same_run(out: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Keep results that cannot be compared out of one folder.

    Args:
        before: what its results were measured of.
        now: the same of this run.

    Raises:
        ValueError: they differ.
    """
    for name, value in now.items():
        if before[name] != value:
            raise ValueError(
                f"{out} has results with {name} {before[name]}, not {value}; choose another --out"
            )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def bullets(about: Mapping[str, Any]) -> str:
    """What is known about a run, a line each."""
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in about.items())


def publish(out: Path, text: str) -> None:
    """Write a report to OUT/report.md and print it."""
    (out / "report.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {out}")


@contextmanager
def figure(path: Path) -> Iterator[Any]:
    """Axes of matplotlib for the length of a `with` block, at whose end they become a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    yield axes
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory that tensors allocated during the call take at a time."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    used = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            used += event.nbytes()
            most = max(most, used)
    return most


def process_at(port: int) -> psutil.Process:
    """The first process of a server that this one started, by the port among its arguments."""
    children = psutil.Process().children()
    (process,) = (child for child in children if str(port) in child.cmdline())
    return process


def data_url(pixels: np.ndarray) -> str:
    """A picture or video as a data URL of JPEGs, as vLLM takes both without a codec.

    Args:
        pixels: [height, width, 3] uint8, or [frames, height, width, 3] of a video.
    """
    if pixels.ndim == 3:
        return f"data:image/jpeg;base64,{_jpeg(pixels)}"
    return f"data:video/jpeg;base64,{','.join(map(_jpeg, pixels))}"


def _jpeg(pixels: np.ndarray) -> str:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG")
    return base64.b64encode(data.getvalue()).decode()
