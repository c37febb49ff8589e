"""The table of families, and what the tests of all families need for each."""

import json
import pathlib

from vllm_script import families
from vllm_script.benchmarks.checkpoints import WRITERS
from vllm_script.families import FAMILIES

SHARED = {"__init__", "anyres", "boxes", "counted", "mrope"}
"""Modules that are no families."""


def test_every_module_is_in_the_table():
    modules = {path.stem for path in pathlib.Path(families.__file__).parent.glob("*.py")}
    assert modules - SHARED == set(FAMILIES.values())


def test_every_architecture_has_a_small_checkpoint(checkpoint):
    """tests/real/families runs for what has one."""
    configs = [json.loads((checkpoint(name) / "config.json").read_text()) for name in WRITERS]
    assert {config["architectures"][0] for config in configs} == FAMILIES.keys()
