"""LLaVA checkpoints: LLaVA-1.5, -NeXT, -NeXT-Video, and -OneVision.

The first two can come with the CLIP of their tower, in a folder `clip`. A tower's last layer is in
them and is not read, as in the published checkpoints; LLaVA-OneVision's reads all of its SigLIP.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import parts

CLIP_BOS, CLIP_EOS = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<image>", CLIP_BOS, CLIP_EOS]
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
VIDEO_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<video>", "<image>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
GRIDS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]
"""Tiles of an image of LLaVA-NeXT, in a column and in a row."""

FEATURES: dict[str, Any] = {
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "tie_word_embeddings": False,
}
"""Arguments of a configuration whose tower is a CLIP's: its last layer but one, without CLS."""

ONEVISION_PATCH = 14
ONEVISION_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
ONEVISION_TEMPLATE = parts.chat_template(
    image="<image>\n", video="<video>\n", after_role=" \n", end="<|im_end|>"
)


def write_llava_next(folder: Path, sizes: parts.Sizes) -> None:
    """Write a LLaVA-NeXT with a CLIP tower and a Llama, and its CLIP if `sizes` has one."""
    grids = _grids(sizes.tile)
    _write_llava(folder, sizes, "llava_next", grids)
    images = {"image_processor_type": "LlavaNextImageProcessor", **grids}
    _write_processors(folder, "LlavaNextProcessor", sizes.tile, 14, images)


def write_llava_1_5(folder: Path, sizes: parts.Sizes) -> None:
    """Write a LLaVA-1.5 with a CLIP tower and a Llama, and its CLIP if `sizes` has one."""
    _write_llava(folder, sizes, "llava", {})
    images = {"image_processor_type": "CLIPImageProcessor"}
    _write_processors(folder, "LlavaProcessor", sizes.tile, 14, images)


def write_llava_next_video(folder: Path, sizes: parts.Sizes) -> None:
    """Write a LLaVA-NeXT-Video, with a visual token for four patches of a frame.

    A frame is whole groups of four patches; a patch has 14 pixels as published, where that leaves
    what vLLM's model divides by: tile // patch**2.
    """
    from transformers import LlavaNextVideoConfig

    vocabulary = parts.write_tokenizer(folder, VIDEO_TOKENS, CHAT_TEMPLATE, eos="</s>", pad="<pad>")
    patch = 14 if sizes.tile >= 14**2 else 7
    tile = sizes.tile // (2 * patch) * 2 * patch
    grids = _grids(tile)
    config = LlavaNextVideoConfig(
        text_config={"model_type": "llama", **parts.text_sizes(vocabulary, sizes)},
        vision_config=_vision_config(sizes, tile, patch, projection=64),
        image_token_index=VIDEO_TOKENS.index("<image>"),
        video_token_index=VIDEO_TOKENS.index("<video>"),
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        **FEATURES,
        **grids,
    )
    parts.save(folder, parts.seeded(config), parts.published_name)
    images = {"image_processor_type": "LlavaNextImageProcessor", **grids}
    videos = "LlavaNextVideoVideoProcessor"
    _write_processors(folder, "LlavaNextVideoProcessor", tile, patch, images, videos)


def write_llava_onevision(folder: Path, sizes: parts.Sizes) -> None:
    """Write a LLaVA-OneVision with a SigLIP tower and a Qwen2; tiny tiles are 6 x 6 patches."""
    from transformers import LlavaOnevisionConfig

    vocabulary = parts.write_tokenizer(
        folder, ONEVISION_TOKENS, ONEVISION_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>"
    )
    sides = [sizes.tile * number for number in range(1, sizes.grid + 1)]
    grids: dict[str, Any] = {
        "image_grid_pinpoints": [[height, width] for height in sides for width in sides]
    }
    features: dict[str, Any] = {
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    }
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **parts.text_sizes(vocabulary, sizes)},
        vision_config={
            **parts.vision_sizes(sizes),
            "model_type": "siglip_vision_model",
            "image_size": sizes.tile,
            "patch_size": ONEVISION_PATCH,
            "vision_use_head": False,
        },
        image_token_index=ONEVISION_TOKENS.index("<image>"),
        video_token_index=ONEVISION_TOKENS.index("<video>"),
        vision_feature_layer=-1,
        tie_word_embeddings=False,
        **grids,
        **features,
    )
    parts.save(folder, parts.seeded(config), parts.published_name)
    half, tile = [0.5] * 3, {"height": sizes.tile, "width": sizes.tile}
    parts.write_processors(
        folder,
        "LlavaOnevisionProcessor",
        {"image_mean": half, "image_std": half, "size": tile},
        {"image_processor_type": "LlavaOnevisionImageProcessor", **grids},
        videos="LlavaOnevisionVideoProcessor",
        processor={
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": (sizes.tile // ONEVISION_PATCH) ** 2,
            **features,
        },
    )


def llava_arguments(vocabulary: int, sizes: parts.Sizes) -> dict[str, Any]:
    """Arguments of the configuration of a LLaVA-1.5 or LLaVA-NeXT."""
    projection = sizes.clip.projection if sizes.clip else sizes.vision.width
    return dict(
        vision_config=_vision_config(sizes, sizes.tile, 14, projection),
        text_config={"model_type": "llama", **parts.text_sizes(vocabulary, sizes), **ENDS},
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        **FEATURES,
    )


def _write_llava(folder: Path, sizes: parts.Sizes, model_type: str, grids: dict[str, Any]) -> None:
    """Write tokenizer and weights of a LLaVA-1.5 or LLaVA-NeXT, and its CLIP."""
    from transformers import AutoConfig

    vocabulary = _write_tokenizer(folder, sizes.context, sizes.vocabulary, "<s>", "</s>")
    config = AutoConfig.for_model(model_type, **llava_arguments(vocabulary, sizes), **grids)
    model = parts.randomise(parts.build(config, sizes.dtype))
    parts.save(folder, model, parts.published_name, ENDS)
    if sizes.clip is not None:
        _write_clip(folder / "clip", sizes, sizes.clip, model.model.vision_tower)


def _write_clip(folder: Path, sizes: parts.Sizes, clip: parts.Clip, tower: torch.nn.Module) -> None:
    """Write the CLIPModel that has this vision tower."""
    from transformers import AutoModel, CLIPConfig

    folder.mkdir()
    vocabulary = _write_tokenizer(folder, clip.positions, clip.vocabulary, CLIP_BOS, CLIP_EOS)
    end = SPECIAL_TOKENS.index(CLIP_EOS)
    text = dict(
        vocab_size=vocabulary,
        hidden_size=clip.text.width,
        intermediate_size=clip.text.mlp,
        num_hidden_layers=clip.text.layers,
        num_attention_heads=clip.text.heads,
        max_position_embeddings=clip.positions,
        projection_dim=clip.projection,
        bos_token_id=SPECIAL_TOKENS.index(CLIP_BOS),
        eos_token_id=end,
        pad_token_id=end,
    )
    vision = _vision_config(sizes, sizes.tile, 14, clip.projection)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=clip.projection)
    model = parts.randomise(AutoModel.from_config(config, dtype=sizes.dtype), gain=1.0)
    model.vision_model.load_state_dict(tower.state_dict())
    parts.save(folder, model)


def _write_tokenizer(folder: Path, context: int, vocabulary: int, bos: str, eos: str) -> int:
    ends: dict[str, Any] = dict(bos=bos, eos=eos, unk="<unk>", pad="<pad>")
    lengths: dict[str, Any] = dict(context=context, vocabulary=vocabulary)
    return parts.write_tokenizer(folder, SPECIAL_TOKENS, CHAT_TEMPLATE, **ends, **lengths)


def _vision_config(sizes: parts.Sizes, tile: int, patch: int, projection: int) -> dict[str, Any]:
    return dict(
        **parts.vision_sizes(sizes, unread=1),  # LLaVA reads the last layer but one
        model_type="clip_vision_model",
        image_size=tile,
        patch_size=patch,
        projection_dim=projection,
    )


def _grids(tile: int) -> dict[str, Any]:
    """Height and width in pixels of the grids that an image is cut into."""
    return {"image_grid_pinpoints": [[tall * tile, wide * tile] for tall, wide in GRIDS]}


def _write_processors(
    folder: Path,
    name: str,
    tile: int,
    patch: int,
    images: dict[str, Any],
    videos: str | None = None,
) -> None:
    """Write the processors' configurations of a model with a CLIP tower."""
    common = {"size": {"shortest_edge": tile}, "crop_size": {"height": tile, "width": tile}}
    processor = {
        "patch_size": patch,
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    if videos is not None:
        processor["video_token"] = "<video>"
    parts.write_processors(folder, name, common, images, videos, processor)
