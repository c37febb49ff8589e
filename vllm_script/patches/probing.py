"""Look whether a name of vLLM is there and takes the parameters that we count on.

A probe has a path, "module:Class.method", and what is expected there:

- a tuple: the names of all parameters, without `self`, in order. For what a class of ours overrides
  or a patch replaces, and so is called in its place;
- a frozenset: parameters among others. For what is only called;
- `EXISTS`: the name is there.

A name is looked for in the process that uses it, for to look is to import its module: the front end
must not import the workers', which may touch a GPU.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

SUPPORTED_VLLM = ("0.32", "0.33")
"""The minor releases of vLLM in which every probe holds: its last two."""

SUPPORTED = " and ".join(f"{minor}.x" for minor in SUPPORTED_VLLM)
"""These releases in a sentence."""

EXISTS = None

Expected = tuple[str, ...] | frozenset[str] | None
Probes = dict[str, Expected]


def members(owner: str, expected: Mapping[str, Expected]) -> Probes:
    """Probes of several names of one class or module, whose path is `owner`."""
    dot = "." if ":" in owner else ":"
    return {f"{owner}{dot}{name}": parameters for name, parameters in expected.items()}


def is_supported(version: str) -> bool:
    """Whether this version of vLLM is one of a supported minor release."""
    return version.startswith(tuple(f"{minor}." for minor in SUPPORTED_VLLM))


def require(probes: Probes) -> None:
    """Raise RuntimeError, in one line that names the supported vLLMs, unless all probes hold."""
    for problem in misfits(probes)[:1]:
        raise RuntimeError(unsupported(problem))


def unsupported(problem: str) -> str:
    """What to tell whoever asked for pruning on a vLLM with this problem, one line."""
    return f"the script plugin supports vLLM {SUPPORTED}: {problem}"


def misfits(probes: Probes) -> list[str]:
    """What is wrong, a line for each probe that does not hold."""
    found = (misfit(path, expected) for path, expected in probes.items())
    return [problem for problem in found if problem is not None]


def misfit(path: str, expected: Expected) -> str | None:
    """What is wrong with the name at `path`, None if nothing is. Imports its module."""
    module, _, name = path.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = _member(value, part)
        if expected is EXISTS:
            return None
        parameters = inspect.signature(value).parameters
    except Exception as error:  # a module that is broken raises anything while it is imported
        return f"{path}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
    found = tuple(name for name in parameters if name != "self")
    kinds = {parameter.kind for parameter in parameters.values()}
    if kinds >= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return None  # it takes anything: another plugin's wrapper, say
    fits = expected <= set(found) if isinstance(expected, frozenset) else expected == found
    return None if fits else f"{path} takes {_listed(found)}, not {_listed(expected)}"


def _listed(parameters: Iterable[str]) -> str:
    return f"({', '.join(parameters)})"


def _member(owner: Any, name: str) -> Any:
    """An attribute, or the definition of a dataclass field that has no default."""
    fields = getattr(owner, "__dataclass_fields__", {})
    return fields[name] if name in fields else getattr(owner, name)
