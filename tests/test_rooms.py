"""Which room of the house may import which: a folder is a process or a promise.

What both processes must agree on, the contract, lies open in vllm_script/: it knows no room but
pruning, whose parameters are settings. plugin.py and extension.py stand above all rooms.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vllm_script
from vllm_script import kernels, server

FOLDERS = {
    "vllm_script": Path(vllm_script.__file__).parent,
    "vllm_script.kernels": Path(kernels.__file__).parent,
    "vllm_script.server": Path(server.__file__).parent,
}
CONTRACT = {
    *("setting", "config", "plan", "budget", "layout", "family", "positions", "wire"),
    *("agreement", "connectors", "vllm_types"),
}
ROOFS = {"plugin", "extension"}
API_PROCESS, ENGINE_PROCESS = {"frontend", "server"}, {"worker"}
ABOVE = ROOFS | {"families", "explain", "checks"}

NEVER = {
    **dict.fromkeys(CONTRACT, API_PROCESS | ENGINE_PROCESS | ABOVE | {"patches", "relevance"}),
    "kernels": CONTRACT
    | API_PROCESS
    | ENGINE_PROCESS
    | ABOVE
    | {"patches", "relevance", "pruning"},
    "pruning": API_PROCESS | ENGINE_PROCESS | ABOVE | {"patches", "relevance", "config", "plan"},
    "relevance": API_PROCESS | ENGINE_PROCESS | ABOVE | {"patches"},
    "patches": API_PROCESS | ENGINE_PROCESS | ABOVE,
    "frontend": ENGINE_PROCESS | ABOVE | {"server"},
    "worker": API_PROCESS | ABOVE,
    "families": {"server", "explain"} | ROOFS,
    "explain": {"server", "checks"} | ROOFS,
    "checks": API_PROCESS | ENGINE_PROCESS | {"plugin"},
    "server": ROOFS,
}
"""Room -> rooms that nothing in it imports, at the top of a file or inside a function."""

KNOW_NO_VLLM = (
    *("kernels", "pruning", "setting", "config", "plan", "budget", "layout", "family", "positions"),
    "agreement",
    "connectors",
)
"""Rooms that work without vLLM."""


def modules():
    """(dotted name, path, whether it is a package) of every module."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [*package.split("."), *path.relative_to(folder).with_suffix("").parts]
            is_package = parts[-1] == "__init__"
            yield ".".join(parts[:-1] if is_package else parts), path, is_package


def imported(source, name, is_package):
    """Dotted names of what a module imports, with relative imports resolved."""
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(name):
    """The room of a module: the folder, or the file that lies open, below vllm_script."""
    parts = name.split(".")
    return parts[1] if parts[0] == "vllm_script" and len(parts) > 1 else None


def trespasses(source, name, is_package=False):
    """What a module imports of rooms that its room never imports."""
    never = NEVER.get(room_of(name), set())
    return {other for other in imported(source, name, is_package) if room_of(other) in never}


@pytest.mark.parametrize(
    ("name", "path", "is_package"), [pytest.param(*module, id=module[0]) for module in modules()]
)
def test_no_room_imports_what_it_never_does(name, path, is_package):
    assert not trespasses(path.read_text(), name, is_package)


def test_every_room_has_rules():
    rooms = {room_of(name) for name, *_ in modules()} - {None}
    assert rooms - ROOFS == NEVER.keys()


def test_a_trespass_is_found():
    for source in (
        "from ..worker.model import PrunedModel",
        "from .. import worker",
        "import vllm_script.worker",
        "def f():\n    from vllm_script.worker import model",
    ):
        assert trespasses(source, "vllm_script.frontend.processor")
    assert not trespasses("from ..plan import Plan", "vllm_script.frontend.processor")


@pytest.mark.parametrize("room", KNOW_NO_VLLM)
def test_without_vllm(room):
    code = f"import sys, vllm_script.{room}; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
