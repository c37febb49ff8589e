"""Whatever our modules import of vLLM is looked at before it is needed.

What stands at the top of a module is: `check_vllm` and the families' probes import that module.
What stands in a function is needed later, so it has a probe of its own, or a reason here.
"""

import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

from vllm_script.checks import OURS, family_probes
from vllm_script.families import FAMILIES
from vllm_script.patches import supported

REPORTED = "doctor reports what one of its checks raises, whatever it is"
NEEDS_NO_PROBE = {
    "vllm.model_executor.model_loader.utils:get_model_cls": REPORTED,
    "vllm.model_executor.models:ModelRegistry": REPORTED,
    "vllm.model_executor.models:supports_mrope": REPORTED,
    "vllm.platforms:current_platform": REPORTED,
    "vllm.plugins:load_general_plugins": REPORTED,
}
PUBLIC = {"vllm:LLM", "vllm:SamplingParams"}
"""What vLLM's users import, which it keeps."""
LOOK = """
import sys
from vllm_script.checks import OURS, family_probes
from vllm_script.families import FAMILIES
from vllm_script.patches.probing import require
require(OURS)
for architecture in FAMILIES:
    require(family_probes(architecture))
print(*(name for name in sys.modules if name.startswith("vllm_script.")))
"""


def sources():
    """(dotted name, syntax tree) of every module of ours."""
    for package in ("vllm_script", "vllm_script.server"):
        folder = pathlib.Path(importlib.import_module(package).__file__).parent
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            yield ".".join(parts).removesuffix(".__init__"), ast.parse(path.read_text())


def imported(nodes):
    """Names of vLLM that these statements import, as "module:name" or "module"."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            yield from (f"{node.module}:{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "vllm")


def at_the_top(tree):
    return set(imported(tree.body))


def in_functions(tree):
    return set(imported(node for node in ast.walk(tree) if node not in tree.body))


@pytest.fixture(scope="module")
def looked_at():
    """Modules of ours that are imported when this vLLM is looked at."""
    printed = subprocess.run([sys.executable, "-P", "-c", LOOK], capture_output=True, check=True)
    return set(printed.stdout.decode().splitlines()[-1].split())


@pytest.fixture(scope="module")
def probed(looked_at):
    """Names of vLLM that are looked at, dotted, with all that they are in."""
    tables = (supported.START_UP, supported.FRONT_END, supported.WORKER, OURS)
    paths = {path for table in (*tables, *map(family_probes, FAMILIES)) for path in table}
    paths |= {path for name, tree in sources() if name in looked_at for path in at_the_top(tree)}
    parts = [path.replace(":", ".").split(".") for path in paths]
    return {".".join(names[:end]) for names in parts for end in range(1, len(names) + 1)}


def test_imports_at_the_top_are_looked_at(looked_at):
    others = {name: at_the_top(tree) - PUBLIC for name, tree in sources() if name not in looked_at}
    assert not {name: paths for name, paths in others.items() if paths}
    assert looked_at and others


def test_imports_in_functions_are_probed(probed):
    late = {path: name for name, tree in sources() for path in in_functions(tree)}
    missing = {path: name for path, name in late.items() if path.replace(":", ".") not in probed}
    assert missing.keys() == NEEDS_NO_PROBE.keys()
    assert len(late) > len(missing)


def test_an_import_is_found():
    tree = ast.parse("import os\nimport vllm.envs\ndef f():\n    from vllm.x import y as z, w")
    assert at_the_top(tree) == {"vllm.envs"}
    assert in_functions(tree) == {"vllm.x:y", "vllm.x:w"}
