"""The model families that can be pruned.

A family is a module here with

- the class `Script<architecture>`, a `PrunedModel` before vLLM's own, registered with a
  `PruningProcessor` before vLLM's own;
- `check(engine_args, hf_config)`, which raises ValueError for what it would get wrong;
- `example(hf_config)`, an image or video for the start-up line: what it is, and its layout;
- `patch_views(hf_config, layout, height, width)`, where it takes images: where the patches of one
  lie, see boxes.py, for explain.
"""

from __future__ import annotations

import importlib
from types import ModuleType

_PACKAGE = "vllm_script.families"

FAMILIES = {
    "LlavaNextForConditionalGeneration": "llava_next",
    "LlavaForConditionalGeneration": "llava",
    "LlavaOnevisionForConditionalGeneration": "llava_onevision",
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "InternVLForConditionalGeneration": "internvl",
    "InternVLChatModel": "internvl_chat",
    "LlavaNextVideoForConditionalGeneration": "llava_next_video",
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
