"""A trained language model of the Llama kind, from a folder or a GGUF file, and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read_language(path: Path) -> tuple[Any, Any]:
    """Return transformers' LlamaForCausalLM in float32, and its tokenizer.

    Args:
        path: a folder, or a GGUF file, whose weights are dequantised.

    Raises:
        ValueError: it is no Llama.
        ImportError: a package that reads GGUF is not installed.
        OSError: there is nothing.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    where: dict[str, Any] = {"pretrained_model_name_or_path": path}
    if path.suffix == ".gguf":
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    kind = AutoConfig.from_pretrained(**where).model_type
    if kind != "llama":
        raise ValueError(f"{path} is a {kind}, not a Llama")
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(**where)
