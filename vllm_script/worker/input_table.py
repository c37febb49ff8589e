"""The language model's input embeddings, in a worker that has no language model.

An encoder instance needs them for relevance `embedding`. vLLM builds no language model there and
may leave out its files, so this one table is read from the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

NAMES = ("embed_tokens.weight", "tok_embeddings.weight")
"""Last parts of the table's name in checkpoints; the second is InternLM2's."""


def read_input_table(
    vllm_config: Any, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Read the table of a checkpoint in safetensors, from a folder or Hugging Face's cache.

    Args:
        vllm_config: vLLM's `VllmConfig`.
        device: where the table is kept, in the model's dtype.

    Returns:
        a function that returns the rows [L, D] of token ids [L].

    Raises:
        ValueError: the checkpoint has no such table, or several.
    """
    model_config = vllm_config.model_config
    hidden_size = model_config.hf_config.get_text_config().hidden_size
    tables = [t for file in _files(vllm_config) for t in _tables(file) if t.shape[1] == hidden_size]
    if len(tables) != 1:
        raise ValueError(
            f"an encoder instance reads the language model's input embeddings from its checkpoint, "
            f"and {model_config.model} has {len(tables)} tensors *.{' or *.'.join(NAMES)} of width "
            f"{hidden_size} in its safetensors files; serve a checkpoint in Hugging Face's format"
        )
    return partial(torch.nn.functional.embedding, weight=tables[0].to(device, model_config.dtype))


def _files(vllm_config: Any) -> list[Path]:
    """The files with the weights, fetched if they are not there.

    A checkpoint of Mistral's may have all weights twice, in both formats: one is enough.
    """
    model_config, cache = vllm_config.model_config, vllm_config.load_config.download_dir
    folder = Path(model_config.model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        only = ["*.safetensors"]
        folder = Path(
            snapshot_download(
                str(folder), revision=model_config.revision, cache_dir=cache, allow_patterns=only
            )
        )
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if not file.name.startswith("consolidated")] or files


def _tables(path: Path) -> Iterator[torch.Tensor]:
    """The tensors of a file that are called as the table is; the others are not read."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118
            if name.endswith(NAMES):
                yield file.get_tensor(name)
