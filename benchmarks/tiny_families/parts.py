"""What the small checkpoints of all families have in common: sizes, tokenizer, weights, files."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_model import TOKENIZER_TEXT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

CONTEXT = 8192


@dataclass(frozen=True)
class Sizes:
    """Of a checkpoint; what is not here is the family's own."""

    width: int
    """Of the language model, as the next three; vLLM on CPU asks for heads of 32 or more."""
    mlp: int
    layers: int
    heads: int
    vision_width: int
    """Of the vision tower, as the next three."""
    vision_mlp: int
    vision_layers: int
    vision_heads: int
    tile: int
    """Side in pixels of what the tower sees at a time, where it has a fixed size."""
    grid: int
    """Tiles of an image in a row and in a column, at most."""
    visual_tokens: int
    """Of an image at most, where it keeps its own shape."""

    @property
    def half_head(self) -> int:
        """Rotations of a head of the language model."""
        return self.width // self.heads // 2


TINY = Sizes(
    **dict(width=64, mlp=128, layers=2, heads=2),
    **dict(vision_width=64, vision_mlp=128, vision_layers=2, vision_heads=2),
    **dict(tile=84, grid=4, visual_tokens=256),
)
"""For tests."""

CPU_20M = Sizes(
    **dict(width=512, mlp=1376, layers=6, heads=8),
    **dict(vision_width=128, vision_mlp=256, vision_layers=4, vision_heads=2),
    **dict(tile=384, grid=6, visual_tokens=2048),
)
"""For timing on a CPU: a language model of 20 million parameters, tower and tiles in proportion."""


def text_sizes(vocab_size: int, sizes: Sizes) -> dict[str, Any]:
    """Arguments of a language model's configuration."""
    return dict(
        vocab_size=vocab_size,
        hidden_size=sizes.width,
        intermediate_size=sizes.mlp,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.heads,
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
