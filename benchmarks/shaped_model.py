"""Write a LLaVA-NeXT with random weights in the shape of a known model, for timing.

    python benchmarks/shaped_model.py cpu-108m OUT_DIR
    python benchmarks/shaped_model.py llava-next-7b OUT_DIR

`llava-next-7b` has every tensor of LLaVA-NeXT-7B (Vicuna) and of its CLIP ViT-L/14 at 336 pixels,
text side included; `cpu-108m` and `cpu-20m` have language models of 108 and 20 million parameters
that a CPU can serve. All have the real geometry: a 672x672 picture is 2,928 visual tokens. Weights
are bfloat16, written file by file with one file in memory, each tensor a function of its name. The
tokenizer is tiny_model.py's with filler words, so that every id that such a model can produce has a
text.
"""

from __future__ import annotations

import argparse
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny_model
import torch
from safetensors.torch import save_file
from tqdm import tqdm

FILE_BYTES = 2 << 30


@dataclass(frozen=True)
class Shape:
    """Sizes of a LLaVA-NeXT; what is not here is as in tiny_model.py."""

    width: int
    """Of the language model, as the next four."""
    mlp: int
    layers: int
    heads: int
    vocabulary: int
    vision_width: int
    """Of the CLIP vision tower, as the next three; tiles are 336 pixels, patches 14."""
    vision_mlp: int
    vision_layers: int
    vision_heads: int
    text_width: int
    """Of the CLIP text tower, as the next five; queries are 77 tokens long."""
    text_mlp: int
    text_layers: int
    text_heads: int
    text_vocabulary: int
    projection: int
    """Width of the space that CLIP compares pictures and texts in."""
    context: int
    """Longest prompt in tokens."""


SHAPES = {
    "cpu-108m": Shape(
        **dict(width=1024, mlp=2976, layers=8, heads=16, vocabulary=512),
        **dict(vision_width=256, vision_mlp=512, vision_layers=5, vision_heads=4),
        **dict(text_width=256, text_mlp=512, text_layers=4, text_heads=4, text_vocabulary=512),
        **dict(projection=256, context=8192),
    ),
    "llava-next-7b": Shape(
        **dict(width=4096, mlp=11008, layers=32, heads=32, vocabulary=32064),
        **dict(vision_width=1024, vision_mlp=4096, vision_layers=24, vision_heads=16),
        **dict(text_width=768, text_mlp=3072, text_layers=12, text_heads=12, text_vocabulary=49408),
        **dict(projection=768, context=4096),
    ),
    "cpu-20m": Shape(
        **dict(width=512, mlp=1376, layers=6, heads=8, vocabulary=512),
        **dict(vision_width=128, vision_mlp=256, vision_layers=5, vision_heads=2),
        **dict(text_width=256, text_mlp=512, text_layers=4, text_heads=4, text_vocabulary=512),
        **dict(projection=256, context=8192),
    ),
}
"""LLaVA reads the vision tower's last layer but one, so four layers of cpu-108m's are at work."""


def main() -> None:
    summary, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out_dir", type=Path)
    args = parser.parse_args()
    write_shaped_model(args.out_dir, SHAPES[args.shape])


def write_shaped_model(out_dir: Path, shape: Shape) -> None:
    """Write the model into `out_dir`, and its CLIP into `out_dir/clip`.

    The folder appears when it is complete; what an interrupted call left is written again.
    """
    from transformers import (
        CLIPConfig,
        CLIPModel,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
    )

    draft = out_dir.with_name(out_dir.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with torch.device("meta"):
        llava = LlavaNextForConditionalGeneration(LlavaNextConfig(**_llava_config(shape)))
        clip = CLIPModel(CLIPConfig(**_clip_config(shape)))
    files = SimpleNamespace(out_dir=draft, family="llava-next", tile=336, patch=14)
    tiny_model.write_processor(files)
    _write_tokenizer(draft, shape.context, shape.vocabulary)
    _write_weights(draft, llava, tiny_model.published_name)
    (draft / "clip").mkdir()
    clip_ends = dict(bos=tiny_model.CLIP_BOS, eos=tiny_model.CLIP_EOS)
    _write_tokenizer(draft / "clip", 77, shape.text_vocabulary, **clip_ends)
    # The tower is the same in both, so its weights have the same names.
    _write_weights(draft / "clip", clip, lambda name: name)
    draft.replace(out_dir)


def _llava_config(shape: Shape) -> dict[str, Any]:
    return dict(
        vision_config=_vision_config(shape),
        text_config=dict(
            model_type="llama",
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=shape.context,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
            tie_word_embeddings=False,
        ),
        image_grid_pinpoints=[[336 * tall, 336 * wide] for tall, wide in tiny_model.GRIDS],
        image_token_index=tiny_model.SPECIAL_TOKENS.index(tiny_model.IMAGE_TOKEN),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _clip_config(shape: Shape) -> dict[str, Any]:
    end = tiny_model.SPECIAL_TOKENS.index(tiny_model.CLIP_EOS)
    text = dict(
        vocab_size=shape.text_vocabulary,
        hidden_size=shape.text_width,
        intermediate_size=shape.text_mlp,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_heads,
        max_position_embeddings=77,
        projection_dim=shape.projection,
        bos_token_id=tiny_model.SPECIAL_TOKENS.index(tiny_model.CLIP_BOS),
        eos_token_id=end,
        pad_token_id=end,
    )
    return dict(
        text_config=text, vision_config=_vision_config(shape), projection_dim=shape.projection
    )


def _vision_config(shape: Shape) -> dict[str, Any]:
    return dict(
        model_type="clip_vision_model",
        hidden_size=shape.vision_width,
        intermediate_size=shape.vision_mlp,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=336,
        patch_size=14,
        projection_dim=shape.projection,
    )


def _write_tokenizer(folder: Path, context: int, size: int, **ends: str) -> None:
    """tiny_model.py's tokenizer, filled up to `size` entries."""
    tiny_model.write_tokenizer(folder, context, **ends)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    for index in range(len(vocabulary), size):
        vocabulary[f"Ġfiller{index}"] = index
    path.write_text(json.dumps(content))


def _write_weights(folder: Path, model: Any, published: Any) -> None:
    """Write config.json and the weights of a model on the meta device."""
    config = {k: v for k, v in model.config.to_diff_dict().items() if k != "_name_or_path"}
    config |= {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    tiny_model.write_json(folder / "config.json", config)
    tensors = {published(name): value.shape for name, value in model.state_dict().items()}
    tensors = {name: size for name, size in tensors.items() if not name.endswith("position_ids")}
    groups = list(_files(tensors))
    index = {}
    with tqdm(total=sum(map(_bytes, tensors.values())), unit="B", unit_scale=True) as bar:
        for number, names in enumerate(groups, start=1):
            name = "model.safetensors"
            if len(groups) > 1:
                name = f"model-{number:05}-of-{len(groups):05}.safetensors"
            save_file({n: _weight(n, tensors[n]) for n in names}, folder / name, {"format": "pt"})
            index |= dict.fromkeys(names, name)
            bar.update(sum(_bytes(tensors[n]) for n in names))
    if len(groups) > 1:
        total = {"total_size": sum(map(_bytes, tensors.values()))}
        content = {"metadata": total, "weight_map": index}
        tiny_model.write_json(folder / "model.safetensors.index.json", content)


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


if __name__ == "__main__":
    main()
