"""The index in patches/__init__.py, and the page of every patch."""

import ast
import importlib
import pathlib
import re

import pytest

from vllm_script import patches
from vllm_script.patches import probing, supported

FOLDER = pathlib.Path(patches.__file__).parent
PATCHES = re.findall(r"^\| (\w+) \| `", patches.__doc__, re.MULTILINE)
NEWEST = probing.SUPPORTED_VLLM[-1]
TOOLS = {"overrides", "probing", "supported", "wrapping"}


def test_the_index_has_every_module():
    modules = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "vllm"}
    assert modules == {*PATCHES, *TOOLS}
    assert all(f"`{tool}`" in patches.__doc__ for tool in TOOLS)


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_says_why_and_until_when(name):
    module = importlib.import_module(f"vllm_script.patches.{name}")
    paragraphs = module.__doc__.split("\n\n")
    for heading in ("Why: ", "Upstream: ", "Remove when: "):
        assert sum(paragraph.startswith(heading) for paragraph in paragraphs) == 1
    (upstream,) = [text for text in paragraphs if text.startswith("Upstream: ")]
    assert f"https://github.com/vllm-project/vllm/blob/v{NEWEST}.0/vllm/" in upstream
    every = {**supported.START_UP, **supported.FRONT_END, **supported.WORKER}
    assert module.PROBES.items() <= every.items()


@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_probes_what_it_replaces(name):
    """Every name that a patch wraps, or assigns in something of vLLM."""
    module = importlib.import_module(f"vllm_script.patches.{name}")
    probed = {path.rpartition(".")[2].rpartition(":")[2] for path in module.PROBES}
    wrapped = set(replaced(ast.parse(pathlib.Path(module.__file__).read_text())))
    assert wrapped <= probed
    assert wrapped or name == "chat_handler"


def replaced(tree):
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in [node for function in functions for node in ast.walk(function)]:
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("wrap", "object.__setattr__") and isinstance(node.args[1], ast.Constant):
                yield node.args[1].value
        elif isinstance(node, ast.Dict) and all(isinstance(v, ast.Name) for v in node.values):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant))
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            yield node.targets[0].value.attr


@pytest.mark.parametrize("table", ["START_UP", "FRONT_END", "WORKER"])
def test_this_vllm_is_supported(table):
    assert probing.misfits(getattr(supported, table)) == []


def test_the_last_two_minor_releases_are():
    older, newer = (tuple(map(int, minor.split("."))) for minor in probing.SUPPORTED_VLLM)
    assert newer == (older[0], older[1] + 1)


@pytest.mark.parametrize("version", ["0.32.0", "0.33.0", "0.33.1", "0.33.0+cpu", "0.33.1rc1"])
def test_versions_that_are_supported(version, monkeypatch):
    monkeypatch.setattr("vllm.__version__", version)
    assert supported.start_up_problem() is None


@pytest.mark.parametrize("version", ["0.31.0", "0.34.0", "0.99.0", "0.320.0", "dev", "0.32"])
def test_other_versions_are_not(version, monkeypatch):
    monkeypatch.setattr("vllm.__version__", version)
    problem = supported.start_up_problem()
    assert problem == f"the script plugin supports vLLM 0.32.x and 0.33.x: this is {version}"
