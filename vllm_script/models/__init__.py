"""The model families that can be pruned."""

from __future__ import annotations

import importlib
from types import ModuleType

_PACKAGE = "vllm_script.models"

FAMILIES = {
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaForConditionalGeneration": "llava",
}
"""vLLM's architecture name -> module of this package, which holds the class `Script<name>`."""


def pruned_name(architecture: str) -> str:
    """Architecture name of the pruned model for a stock one."""
    return f"Script{architecture}"


def registrations() -> list[tuple[str, str]]:
    """(architecture name, "module:class") of every pruned model; imports none of them."""
    return [
        (pruned_name(stock), f"{_PACKAGE}.{module}:{pruned_name(stock)}")
        for stock, module in FAMILIES.items()
    ]


def family_of(pruned_architecture: str) -> ModuleType:
    """The module of a pruned model, from its architecture name."""
    module = FAMILIES[pruned_architecture.removeprefix("Script")]
    return importlib.import_module(f"{_PACKAGE}.{module}")
