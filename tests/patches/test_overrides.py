"""Everything of vLLM that our classes override or call under a private name is probed.

The classes are walked, so an override that is new needs a probe.
"""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import sys

import pytest

import vllm_script
from vllm_script.checks import check_vllm, family_probes
from vllm_script.families import FAMILIES, model_class, pruned_name
from vllm_script.frontend.renderer import (
    PruningRenderer,
    ScriptMistralRenderer,
    ScriptRenderer,
)
from vllm_script.patches import overrides, supported
from vllm_script.patches.probing import misfits, require
from vllm_script.wire import PruningField
from vllm_script.worker.encoder_work import ScriptEncoderCacheManager
from vllm_script.worker.row_store import RowStore

ROOMS = ("families", "frontend", "worker", "explain", "relevance", "pruning")
MADE_BY_PYTHON = {"__module__", "__doc__", "__dict__", "__weakref__", "__subclasshook__"}
MADE_BY_PYTHON |= {"__abstractmethods__", "__annotations__", "__parameters__"}
MADE_BY_PYTHON |= {"_abc_impl", "_is_protocol"}
REGISTERED = "_processor_factory"
"""Attribute in which vLLM's registry keeps the processor of a model, ours of ours."""


def is_ours(cls):
    return cls.__module__.split(".")[0] == "vllm_script"


def is_vllms(cls):
    return cls.__module__.split(".")[0] == "vllm"


def classes_of(module):
    """Our classes in a module that have one of vLLM's among their bases."""
    for value in vars(module).values():
        if inspect.isclass(value) and is_ours(value) and any(map(is_vllms, value.__mro__)):
            yield value


def overridden(cls):
    """(stock class, name) of every attribute of vLLM's that `cls` has another one of."""
    stock = [base for base in cls.__mro__ if is_vllms(base)]
    for base in filter(is_ours, cls.__mro__):
        for name in vars(base).keys() - MADE_BY_PYTHON - {REGISTERED}:
            if any(name in vars(below) for below in stock):
                yield stock[0], name


def path(owner, name):
    return f"{owner.__module__}:{owner.__qualname__}.{name}"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_overrides_of_a_family_are_probed(architecture):
    model = model_class(pruned_name(architecture))
    factories = vars(model)[REGISTERED]
    needed = {
        path(*override)
        for cls in (model, factories.processor, factories.info)
        if is_ours(cls)
        for override in overridden(cls)
    }
    missing = needed - family_probes(architecture).keys()
    assert not missing
    assert needed, "the classes were not found"


@pytest.mark.parametrize("renderer", [ScriptRenderer, ScriptMistralRenderer])
def test_overrides_of_the_renderers_are_probed(renderer):
    assert {path(*o) for o in overridden(renderer)} <= overrides.RENDERER.keys()


def test_overrides_of_the_scheduler_are_probed():
    needed = {path(*o) for o in overridden(ScriptEncoderCacheManager)}
    assert needed <= overrides.SCHEDULING.keys()


def test_overrides_of_the_row_store_are_probed():
    assert {path(*o) for o in overridden(RowStore)} <= overrides.ROW_STORE.keys()


def test_there_are_no_other_subclasses():
    """A class of ours below one of vLLM's is of a family, or a renderer, scheduler, connector."""
    known = {PruningRenderer, ScriptRenderer, ScriptMistralRenderer, ScriptEncoderCacheManager}
    known |= {RowStore, PruningField}
    for architecture in FAMILIES:
        model = model_class(pruned_name(architecture))
        factories = vars(model)[REGISTERED]
        known |= {*model.__mro__, *factories.processor.__mro__}
        known |= {*getattr(factories.info, "__mro__", ())}
    for room in ROOMS:
        package = importlib.import_module(f"vllm_script.{room}")
        for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            found = set(classes_of(importlib.import_module(info.name)))
            assert found <= known, info.name


def sources():
    for name in ("vllm_script", "vllm_script.server"):
        folder = pathlib.Path(importlib.import_module(name).__file__).parent
        yield from folder.rglob("*.py")


def test_private_names_of_vllm_are_probed():
    """An attribute with an underscore that nothing of ours defines is one of vLLM's."""
    defined, used = set(), {}
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                defined.add(node.attr)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                used[node.attr] = f"{file.name}:{node.lineno}"
    tables = (supported.START_UP, supported.FRONT_END, supported.WORKER)
    tables += tuple(map(family_probes, FAMILIES))
    probed = {path.rpartition(".")[2] for table in tables for path in table}
    others = {"_actions", "_labelnames"}  # of argparse and prometheus_client
    others |= {name for name in used if name.startswith("__")}
    assert not {k: v for k, v in used.items() if k not in defined | probed | others}
    assert used


def test_probes_of_every_family_hold():
    for architecture in FAMILIES:
        probes = family_probes(architecture)
        assert misfits(probes) == []
        model = model_class(pruned_name(architecture))
        assert probes.items() >= overrides.of_family(model).items()


def test_a_module_of_ours_that_vllm_breaks_is_one_line(monkeypatch):
    """What it imports is not probed name by name: importing it is the probe."""
    monkeypatch.delattr("vllm.renderers.hf.ChatTemplateResolutionError")
    monkeypatch.delitem(__import__("sys").modules, "vllm_script.frontend.renderer")
    monkeypatch.delattr(vllm_script.frontend, "renderer")
    with pytest.raises(RuntimeError, match=r"supports vLLM .*: .*cannot import name 'ChatTempl"):
        check_vllm()


def test_a_family_that_vllm_breaks_is_one_line(monkeypatch):
    """Where its module cannot be imported nobody knows its probes, so that is the one probe."""
    architecture, module = next(iter(FAMILIES.items()))
    stock = next(filter(is_vllms, model_class(pruned_name(architecture)).__mro__))
    monkeypatch.delattr(importlib.import_module(stock.__module__), stock.__name__)
    monkeypatch.delitem(sys.modules, f"vllm_script.families.{module}")
    with pytest.raises(RuntimeError, match=f"cannot import name '{stock.__name__}'") as e:
        require(family_probes(architecture))
    assert "\n" not in str(e.value)
