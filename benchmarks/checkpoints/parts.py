"""What the checkpoints of all families have in common: sizes, tokenizer, weights, files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
CONTEXT = 8192
"""Longest prompt in tokens, where a checkpoint has no other."""
FILE_BYTES = 2 << 30
"""Most bytes of one file of weights that is written without having the model in memory."""
GRIDS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]
"""Tiles of an image of LLaVA-NeXT, in a column and in a row."""

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
    streamed: bool = False
    """Write bfloat16 weights file by file, each tensor a function of its name, so that a model
    need not fit in memory; otherwise float32, all of them one sequence of random numbers."""
    kv_heads: int = 0
    """Heads of keys and values in the language model; 0 for as many as of queries."""
    tied: bool = False
    """Whether the language model's output weights are those of its input embeddings."""

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
        num_key_value_heads=sizes.kv_heads or sizes.language.heads,
        max_position_embeddings=sizes.context,
        tie_word_embeddings=sizes.tied,
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
        common: settings of image and video processor; what all families have alike is added.
        images: further settings of the image processor, its class among them.
        videos: class of the video processor; None for a family without one.
        processor: settings of the processor of both; None where the family has no file of them.
    """
    common = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "processor_class": name,
        **common,
    }
    write_json(folder / "preprocessor_config.json", {**common, **images})
    if videos is not None:
        write_json(
            folder / "video_preprocessor_config.json", common | {"video_processor_type": videos}
        )
    if processor is not None:
        write_json(folder / "processor_config.json", {"processor_class": name, **processor})


def randomise(model: torch.nn.Module, gain: float = 1.5) -> torch.nn.Module:
    """Give a model the next weights of torch's random numbers, in float32.

    Args:
        gain: standard deviation of an output, of inputs around 1; 1.5 makes answers depend on the
            picture.
    """
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=gain * parameter[0].numel() ** -0.5)
    return model.float().eval()


def seeded(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give a model the weights of a seed, in float32."""
    torch.manual_seed(seed)
    return randomise(model)


def save_model(folder: Path, model: Any, rename: Callable[[str], str] = str) -> None:
    """Write configuration and weights of a model in memory; `rename`: to published names."""
    write_config(folder, model)
    write_json(folder / "generation_config.json", {})
    save_weights(folder, {rename(name): value for name, value in model.state_dict().items()})


def write_config(folder: Path, model: Any, **more: Any) -> None:
    """Write config.json, what differs from transformers' defaults."""
    config = {k: v for k, v in model.config.to_diff_dict().items() if k != "_name_or_path"}
    write_json(folder / "config.json", config | {"architectures": [type(model).__name__]} | more)


def save_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write all weights into one file."""
    tensors = {name: value.contiguous() for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def stream_model(folder: Path, model: Any, rename: Callable[[str], str] = str) -> None:
    """Write configuration and weights of a model on the meta device, one file in memory at a time.

    Weights are bfloat16, each a function of its name; `rename`: to published names. One that is
    tied to another is left out.
    """
    write_config(folder, model, dtype="bfloat16")
    tied = getattr(model, "all_tied_weights_keys", {})
    tensors = {rename(n): v.shape for n, v in model.state_dict().items() if n not in tied}
    tensors = {name: size for name, size in tensors.items() if not name.endswith("position_ids")}
    groups = list(_files(tensors))
    index: dict[str, str] = {}
    total = sum(map(_bytes, tensors.values()))
    with tqdm(total=total, unit="B", unit_scale=True) as bar:
        for number, names in enumerate(groups, start=1):
            name = "model.safetensors"
            if len(groups) > 1:
                name = f"model-{number:05}-of-{len(groups):05}.safetensors"
            save_file({n: _weight(n, tensors[n]) for n in names}, folder / name, {"format": "pt"})
            index |= dict.fromkeys(names, name)
            bar.update(sum(_bytes(tensors[n]) for n in names))
    if len(groups) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        write_json(folder / "model.safetensors.index.json", content)


def _files(tensors: dict[str, torch.Size]) -> Iterator[list[str]]:
    """Names of the tensors of each file, about FILE_BYTES at most."""
    names: list[str] = []
    for name, size in tensors.items():
        if names and sum(_bytes(tensors[n]) for n in names) + _bytes(size) > FILE_BYTES:
            yield names
            names = []
        names.append(name)
    yield names


def _bytes(size: torch.Size) -> int:
    """Bytes of a tensor of bfloat16."""
    return 2 * size.numel()


def _weight(name: str, size: torch.Size) -> torch.Tensor:
    """Random, but for norms and biases; the scale keeps activations near 1, layer after layer."""
    if name.endswith("bias"):
        return torch.zeros(size, dtype=torch.bfloat16)
    if "norm" in name:
        return torch.ones(size, dtype=torch.bfloat16)
    seed = zlib.crc32(name.removeprefix("vision_tower.").encode())
    generator = torch.Generator().manual_seed(seed)
    inputs = size[1:].numel()
    weight = torch.empty(size, dtype=torch.bfloat16)
    return weight.normal_(std=1.5 * inputs**-0.5, generator=generator)


def published_name(name: str) -> str:
    """Name of a LLaVA weight in the published checkpoints, from its name in transformers 5."""
    name = name.removeprefix("model.")
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return f"language_model.{name}" if name.startswith("lm_head.") else name


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a configuration."""
    path.write_text(json.dumps(content, indent=2) + "\n")
