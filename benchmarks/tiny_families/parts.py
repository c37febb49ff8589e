"""What the small checkpoints of all families have in common: tokenizer, weights, files."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_model import TOKENIZER_TEXT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

HIDDEN_SIZE = 64
"""Of the language models: two heads of 32, which is what vLLM on CPU asks for."""

CONTEXT = 8192


def text_sizes(vocab_size: int) -> dict[str, Any]:
    """Arguments of a small language model's configuration."""
    return dict(
        vocab_size=vocab_size,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
    )


def write_tokenizer(
    folder: pathlib.Path,
    special_tokens: Sequence[str],
    chat_template: str,
    eos: str,
    pad: str,
    **settings: Any,
) -> int:
    """Write a byte-level BPE that knows a few English words; return its number of tokens.

    Args:
        settings: what else there is in its configuration.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TOKENIZER_TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "pad_token": pad,
            "model_max_length": CONTEXT,
            "chat_template": chat_template,
            **settings,
        },
    )
    return tokenizer.get_vocab_size()


def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights wide enough that answers depend on the picture, a function of the seed."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=1.5 * parameter[0].numel() ** -0.5)
    return model.float().eval()


def save_model(
    folder: pathlib.Path, model: Any, rename: Callable[[str], str] = lambda name: name
) -> None:
    """Write configuration and weights, under the names of the published checkpoints."""
    config = {k: v for k, v in model.config.to_diff_dict().items() if k != "_name_or_path"}
    config["architectures"] = [type(model).__name__]
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {})
    save_weights(folder, {rename(name): value for name, value in model.state_dict().items()})


def save_weights(folder: pathlib.Path, weights: Mapping[str, torch.Tensor]) -> None:
    tensors = {name: value.contiguous() for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
