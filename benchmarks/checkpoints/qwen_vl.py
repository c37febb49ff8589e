"""Small Qwen2-VL, Qwen2.5-VL and Qwen3-VL checkpoints, with a visual token for four patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import parts

MERGE = 2
MIN_TOKENS = 4
"""Fewest visual tokens of an image. A bound, this and the most, holds for every second frame of a
video, in Qwen3-VL for all frames together."""

SPECIAL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]
CHAT_TEMPLATE = parts.chat_template(
    image="<|vision_start|><|image_pad|><|vision_end|>",
    video="<|vision_start|><|video_pad|><|vision_end|>",
    system="<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
)
TOKEN_IDS = {
    "image_token_id": SPECIAL_TOKENS.index("<|image_pad|>"),
    "video_token_id": SPECIAL_TOKENS.index("<|video_pad|>"),
    "vision_start_token_id": SPECIAL_TOKENS.index("<|vision_start|>"),
    "vision_end_token_id": SPECIAL_TOKENS.index("<|vision_end|>"),
}


def write_qwen2_vl(folder: Path, sizes: parts.Sizes) -> None:
    """Write a Qwen2-VL."""
    vision = dict(
        embed_dim=sizes.vision.width,
        hidden_size=sizes.language.width,
        mlp_ratio=sizes.vision.mlp // sizes.vision.width,
        patch_size=14,
    )
    _write(folder, sizes, "qwen2_vl", "Qwen2VLProcessor", vision)


def write_qwen2_5_vl(folder: Path, sizes: parts.Sizes) -> None:
    """Write a Qwen2.5-VL: all vision layers but the last have attention over windows of 112."""
    vision = _later_vision(sizes, patch=14) | dict(
        tokens_per_second=2, window_size=112, fullatt_block_indexes=[sizes.vision.layers - 1]
    )
    _write(folder, sizes, "qwen2_5_vl", "Qwen2_5_VLProcessor", vision)


def write_qwen3_vl(folder: Path, sizes: parts.Sizes) -> None:
    """Write a Qwen3-VL, two of whose language layers take visual input of their own."""
    vision = _later_vision(sizes, patch=16) | dict(
        depth=sizes.vision.layers + 1, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]
    )
    text = {"head_dim": 2 * sizes.half_head, "num_hidden_layers": sizes.language.layers + 1}
    rope = {"mrope_section": _mrope_section(sizes, 5 / 16), "mrope_interleaved": True}
    videos = "Qwen3VLVideoProcessor"
    _write(folder, sizes, "qwen3_vl", "Qwen3VLProcessor", vision, text, rope, videos)


def _later_vision(sizes: parts.Sizes, patch: int) -> dict[str, Any]:
    """Arguments of the vision tower's configuration as Qwen2.5-VL and Qwen3-VL name them."""
    return dict(
        hidden_size=sizes.vision.width,
        intermediate_size=sizes.vision.mlp,
        out_hidden_size=sizes.language.width,
        patch_size=patch,
    )


def _mrope_section(sizes: parts.Sizes, share: float) -> list[int]:
    """Rotations of a head for time, height and width; `share`: of height, and as many of width."""
    other = int(sizes.half_head * share)
    return [sizes.half_head - 2 * other, other, other]


def _write(
    folder: Path,
    sizes: parts.Sizes,
    model_type: str,
    processor: str,
    vision: dict[str, Any],
    text: dict[str, Any] | None = None,
    rope: dict[str, Any] | None = None,
    videos: str = "Qwen2VLVideoProcessor",
) -> None:
    """Write a checkpoint.

    Args:
        processor: class of the processor of texts and media together.
        vision: arguments of the tower's configuration, without what all of them have.
        text: further arguments of the language model's configuration.
        rope: parameters of the rotations, where they are not those of Qwen2-VL.
        videos: class of the video processor.
    """
    from transformers import AutoConfig

    vocabulary = parts.write_tokenizer(
        folder, SPECIAL_TOKENS, CHAT_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>"
    )
    rope = rope or {"mrope_section": _mrope_section(sizes, 3 / 8)}
    config = AutoConfig.for_model(
        model_type,
        text_config={
            **parts.text_sizes(vocabulary, sizes),
            "bos_token_id": 0,
            "eos_token_id": SPECIAL_TOKENS.index("<|im_end|>"),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **rope},
            **(text or {}),
        },
        vision_config={
            "depth": sizes.vision.layers,
            "num_heads": sizes.vision.heads,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            **vision,
        },
        **TOKEN_IDS,
    )
    parts.save(folder, parts.seeded(config))
    token = (MERGE * vision["patch_size"]) ** 2
    common = {
        "patch_size": vision["patch_size"],
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": MIN_TOKENS * token, "longest_edge": sizes.visual_tokens * token},
    }
    images = {"image_processor_type": "Qwen2VLImageProcessor"}
    parts.write_processors(folder, processor, common, images, videos)
