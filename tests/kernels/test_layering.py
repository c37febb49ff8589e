import ast
import inspect
import sys
from pathlib import Path

import pytest

from vllm_script import kernels

FOLDER = Path(kernels.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_kernels_import_only_torch_and_triton(path):
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            depth = len(path.relative_to(FOLDER).parts)
            assert node.level <= depth, f"line {node.lineno} leaves the package"
            roots |= {node.module.split(".")[0]} if node.level == 0 else set()
    of_clusters = {"cuda"} if "cluster" in path.parts else set()  # PyTorch for CUDA brings it
    assert roots <= {*sys.stdlib_module_names, "torch", "triton"} | of_clusters


def test_all_lists_every_public_op():
    ops = {
        name
        for name, value in vars(kernels).items()
        if inspect.isfunction(value) or inspect.isclass(value)
    }
    assert set(kernels.__all__) == ops | {"Backend", "MAX_TOKENS"}
