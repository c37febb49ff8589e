"""What the checkpoints of all families have in common: sizes, tokenizer, weights, files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CONTEXT = 8192
"""Longest prompt in tokens, where a checkpoint has no other."""

# Enough running text for a byte-level BPE to find common English words.
TOKENIZER_TEXT = """What is shown in this picture? Describe the image in detail, please. How many
people are there, and what colour is the roof of the temple? Is there a tree to the left of the
building? Read the sign above the door. Where is the red car? Which animal is the largest one? What
is written on the wall? The picture shows a building with trees in front of it and a blue sky above.
USER: ASSISTANT: Answer with one word. Compare the first picture with the second one."""


class Stack(NamedTuple):
    """Sizes of a transformer."""

    width: int
    mlp: int
    """Width inside its MLPs."""
    layers: int
    heads: int


@dataclass(frozen=True)
class Clip:
    """The text side of a CLIP model, whose vision side is a checkpoint's tower."""

    text: Stack
    vocabulary: int
    """Entries of its tokenizer, as in `Sizes`."""
    projection: int
    """Width of the space in which CLIP compares pictures and texts."""
    positions: int = 77
    """Longest query in tokens."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a checkpoint; what is not here is the family's own."""

    language: Stack
    """The language model; vLLM on CPU asks for heads of 32 or more."""
    vision: Stack
    """The vision tower, of whose layers those are counted that are read: LLaVA has one more."""
    tile: int
    """Side in pixels of what the tower sees at a time, where it has a fixed size."""
    grid: int = 4
    """Tiles of an image in a row and in a column, at most, where the family has no fixed grids."""
    visual_tokens: int = 256
    """Visual tokens of an image at most, where it keeps its own shape."""
    context: int = CONTEXT
    """Longest prompt in tokens."""
    vocabulary: int = 0
    """Entries of the tokenizer, filled up with filler words; 0 for the few hundred that it has."""
    clip: Clip | None = None
    """Text side of the tower's CLIP, where LLaVA's checkpoint is to come with it."""
    dtype: torch.dtype = torch.float32
    """Type of the weights."""

    @property
    def half_head(self) -> int:
        """Rotations of a head of the language model."""
        return self.language.width // self.language.heads // 2


def text_sizes(vocabulary: int, sizes: Sizes) -> dict[str, Any]:
    """Arguments of a language model's configuration; `vocabulary`: entries of its tokenizer."""
    return dict(
        vocab_size=vocabulary,
        hidden_size=sizes.language.width,
        intermediate_size=sizes.language.mlp,
        num_hidden_layers=sizes.language.layers,
        num_attention_heads=sizes.language.heads,
        num_key_value_heads=sizes.language.heads,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=False,
    )


def vision_sizes(sizes: Sizes, unread: int = 0) -> dict[str, int]:
    """Arguments of a vision tower's configuration; `unread`: layers that it has beside."""
    return dict(
        hidden_size=sizes.vision.width,
        intermediate_size=sizes.vision.mlp,
        num_hidden_layers=sizes.vision.layers + unread,
        num_attention_heads=sizes.vision.heads,
    )


def chat_template(
    image: str, video: str, *, after_role: str = "\n", end: str = "<|im_end|>\n", system: str = ""
) -> str:
    """Template of turns between <|im_start|> and <|im_end|>, the parts of a turn in their order.

    Args:
        image: text in whose place an image comes.
        video: text in whose place a video comes.
        system: system prompt of a chat that begins without one.
    """
    return (
        "{% for message in messages %}"
        f"{{% if loop.first and message['role'] != 'system' %}}{{{{ '{system}' }}}}{{% endif %}}"
        f"{{{{ '<|im_start|>' + message['role'] + '{after_role}' }}}}"
        "{% if message['content'] is string %}{{ message['content'] }}"
        "{% else %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{{{{ '{image}' }}}}"
        f"{{% elif part['type'] == 'video' %}}{{{{ '{video}' }}}}"
        "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endif %}"
        f"{{{{ '{end}' }}}}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


def write_tokenizer(
    folder: Path,
    special_tokens: Sequence[str],
    chat_template: str,
    *,
    eos: str,
    pad: str,
    bos: str | None = None,
    unk: str | None = None,
    context: int = CONTEXT,
    vocabulary: int = 0,
    **settings: Any,
) -> int:
    """Write a byte-level BPE that knows a few English words, and return how many entries it has.

    Args:
        context: longest prompt in tokens.
        vocabulary: how many entries to fill it up to, so that every id has a text.
        settings: further entries of tokenizer_config.json.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TOKENIZER_TEXT], trainer)
    content = json.loads(tokenizer.to_str())
    words = content["model"]["vocab"]
    words |= {f"Ġfiller{index}": index for index in range(len(words), vocabulary)}
    write_json(folder / "tokenizer.json", content)
    tokens = {"bos_token": bos, "eos_token": eos, "unk_token": unk, "pad_token": pad}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "chat_template": chat_template,
        **{name: token for name, token in tokens.items() if token is not None},
    }
    write_json(folder / "tokenizer_config.json", config | settings)
    return len(words)


def write_processors(
    folder: Path,
    name: str,
    common: Mapping[str, Any],
    images: Mapping[str, Any],
    videos: str | None = None,
    processor: Mapping[str, Any] | None = None,
) -> None:
    """Write the configurations of a checkpoint's processors.

    Args:
        name: class of the processor of texts and media together.
        common: settings of image and video processor that differ from their classes' own.
        images: further settings of the image processor, its class among them.
        videos: class of the video processor; None for a family without one.
        processor: settings of the processor of both; None where the family has no file of them.
    """
    whole = {"processor_class": name}
    write_json(folder / "preprocessor_config.json", {**whole, **common, **images})
    if videos is not None:
        settings = {**whole, **common, "video_processor_type": videos}
        write_json(folder / "video_preprocessor_config.json", settings)
    if processor is not None:
        write_json(folder / "processor_config.json", {**whole, **processor})


def build(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a configuration, with the weights that its constructor draws."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_config(config, dtype=dtype)


def randomise(model: torch.nn.Module, gain: float = 1.5) -> Any:
    """Give a model the next weights of torch's random numbers.

    Args:
        gain: standard deviation of an output, of inputs around 1; 1.5 makes answers depend on the
            picture.
    """
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)
    return model.eval()


def seeded(config: Any) -> Any:
    """A model whose weights are the first random numbers of torch's seed."""
    model = build(config)
    torch.manual_seed(torch.initial_seed())
    return randomise(model)


def save(
    folder: Path,
    model: Any,
    rename: Callable[[str], str] = str,
    ends: Mapping[str, int] | None = None,
) -> None:
    """Write configuration and weights of a model.

    Args:
        rename: to published names.
        ends: special tokens of generation_config.json.
    """
    config = model.config.to_diff_dict() | {"architectures": [type(model).__name__]}
    for part in config.values():
        if isinstance(part, dict):
            part.pop("dtype", None)  # a server's --dtype holds for the whole model
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", ends or {})
    weights = {rename(name): value for name, value in model.state_dict().items()}
    save_torch_state_dict(weights, folder)


def published_name(name: str) -> str:
    """Name of a LLaVA weight in the published checkpoints, from its name in transformers 5."""
    name = name.removeprefix("model.")
    if name.startswith("vision_tower."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return f"language_model.{name}" if name.startswith("lm_head.") else name


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a configuration."""
    path.write_text(json.dumps(content, indent=2) + "\n")
