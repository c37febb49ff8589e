"""A machine that does not exist, and parts that need no GPU."""

import dataclasses

import pytest

from vllm_script.benchmarks.gpu.machine import Machine
from vllm_script.benchmarks.gpu.parts import Part
from vllm_script.benchmarks.gpu.session import Session

MACHINE = Machine(
    "NVIDIA H100 80GB HBM3", 79.6, "9.0", 132, "590.48", "vllm 0.33.0", "0123abcd", "4d393ce"
)


@pytest.fixture
def machine():
    """machine(**changes) -> one with a large GPU, but for the changes."""
    return lambda **changes: dataclasses.replace(MACHINE, **changes)


@pytest.fixture
def part():
    """part(name, code, **fields) -> one that runs Python code."""

    def make(name, code="print('all is well')", found=lambda: "seen", **fields):
        return Part(name, f"a part called {name}", ["-c", code], found, **fields)

    return make


@pytest.fixture
def session(tmp_path, machine):
    """session(parts, **changes of the machine) -> one whose results are in `tmp_path`."""
    command = "python benchmarks/gpu_report.py"
    return lambda parts, **changes: Session(machine(**changes), tmp_path, tmp_path, parts, command)


@pytest.fixture
def report(tmp_path):
    """report() -> the page that was written, and its folder."""

    def read():
        (folder,) = tmp_path.glob("20*-gpu-h100-80gb-hbm3")
        return (folder / "README.md").read_text(), folder

    return read
