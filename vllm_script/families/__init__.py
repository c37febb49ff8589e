"""The model families that can be pruned, a file each.

A family is one file here, which both processes import: what it knows of the model's layout (a
subclass of `vllm_script.family.Family`), the processor of the API process, and the model of the
engine process, registered under the stock architecture's name with `Script` before it. Models of
one line share a file, so a vLLM in which one of them cannot be imported refuses the others too.
README.md here tells how to add one.
"""

from __future__ import annotations

import importlib
from typing import Any

from ..family import Family

FAMILIES = {
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaForConditionalGeneration": "llava",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
    "Qwen2VLForConditionalGeneration": "qwen_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen_vl",
    "Qwen3VLForConditionalGeneration": "qwen_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen_vl",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5",
    "Glm4vForConditionalGeneration": "glm4v",
    "Glm4vMoeForConditionalGeneration": "glm4v",
    "InternVLForConditionalGeneration": "internvl",
    "InternVLChatModel": "internvl",
    "InternS1ForConditionalGeneration": "internvl",
    "Mistral3ForConditionalGeneration": "mistral3",
    "PixtralForConditionalGeneration": "pixtral",
    "LlavaNextVideoForConditionalGeneration": "llava_next_video",
    "Gemma3ForConditionalGeneration": "gemma3",
    "Gemma4ForConditionalGeneration": "gemma4",
    "Llama4ForConditionalGeneration": "llama4",
    "KimiVLForConditionalGeneration": "kimi_vl",
}
"""vLLM's architecture name -> module of this package, which holds the class `Script<name>`."""


def pruned_name(architecture: str) -> str:
    """Return the architecture name of the pruned model for a stock one."""
    return f"Script{architecture}"


def registrations() -> list[tuple[str, str]]:
    """Return (architecture name, "module:class") of every pruned model; imports none of them."""
    return [
        (pruned_name(stock), f"{__name__}.{module}:{pruned_name(stock)}")
        for stock, module in FAMILIES.items()
    ]


def family_of(pruned_architecture: str) -> Family:
    """Return the family of a pruned model, from its architecture name."""
    family: Family = model_class(pruned_architecture).family
    return family


def model_class(pruned_architecture: str) -> Any:
    """Return the class of a pruned model, from its architecture name; imports its module."""
    module = FAMILIES[pruned_architecture.removeprefix("Script")]
    return getattr(importlib.import_module(f"{__name__}.{module}"), pruned_architecture)
