"""Small Qwen2-VL, Qwen2.5-VL, Qwen3-VL and Qwen3.5 checkpoints; a visual token is four patches.

There are a Qwen3-VL and a Qwen3.5 with a mixture of experts as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import parts

MERGE = 2
EXPERTS, ACTIVE = 8, 2
"""Experts of a layer of Qwen3-VL MoE, and how many of them a token goes through."""
MIN_TOKENS = 4
"""Fewest visual tokens of an image. A bound, this and the most, holds for every second frame of a
video, in Qwen3-VL for all frames together."""

SPECIAL_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


TOKEN_IDS = {
    f"{name}_token_id": SPECIAL_TOKENS.index(f"<|{token}|>")
    for name, token in (
        *(("image", "image_pad"), ("video", "video_pad")),
        *(("vision_start", "vision_start"), ("vision_end", "vision_end")),
    )
}
"""Arguments of a configuration that name special tokens."""


def write_qwen2_vl(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Qwen2-VL."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = dict(
        embed_dim=sizes.vision.width,
        hidden_size=sizes.language.width,
        mlp_ratio=sizes.vision.mlp // sizes.vision.width,
        patch_size=14,
    )
    config = _config(Qwen2VLConfig, folder, sizes, vision)
    parts.save_model(folder, parts.seeded(Qwen2VLForConditionalGeneration(config), seed))
    _write_processors(folder, "Qwen2VLProcessor", 14, sizes)


def write_qwen2_5_vl(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Qwen2.5-VL: of eight vision layers, or fewer, the last sees more than a window."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    layers = sizes.vision.layers
    vision = _later_vision(sizes, patch=14) | dict(
        tokens_per_second=2,
        window_size=112,
        fullatt_block_indexes=[*range(7, layers, 8)] or [layers - 1],
    )
    config = _config(Qwen2_5_VLConfig, folder, sizes, vision)
    if sizes.streamed:
        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration(config)
        parts.stream_model(folder, model)
    else:
        parts.save_model(folder, parts.seeded(Qwen2_5_VLForConditionalGeneration(config), seed))
    _write_processors(folder, "Qwen2_5_VLProcessor", 14, sizes)


def write_qwen3_vl(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Qwen3-VL."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config = _config_of_qwen3(Qwen3VLConfig, folder, sizes)
    parts.save_model(folder, parts.seeded(Qwen3VLForConditionalGeneration(config), seed))
    _write_processors(folder, "Qwen3VLProcessor", 16, sizes, videos="Qwen3VLVideoProcessor")


def write_qwen3_vl_moe(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Qwen3-VL whose experts are together as wide as a dense model's MLP.

    As in the published checkpoints the experts of a layer are one tensor, [experts, in, out].
    """
    from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

    experts = dict(
        num_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
        moe_intermediate_size=sizes.language.mlp // EXPERTS,
        norm_topk_prob=True,  # which vLLM reads, and transformers takes for granted
    )
    config = _config_of_qwen3(Qwen3VLMoeConfig, folder, sizes, **experts)
    model = parts.seeded(Qwen3VLMoeForConditionalGeneration(config), seed)
    weights = model.state_dict()
    for name, weight in weights.items():
        if ".experts." in name:
            # Each of the outputs of an expert has its own inputs, the last dimension.
            weights[name] = (weight * weight.shape[1] ** 0.5).transpose(1, 2)
    parts.write_config(folder, model)
    parts.write_json(folder / "generation_config.json", {})
    parts.save_weights(folder, weights)
    _write_processors(folder, "Qwen3VLProcessor", 16, sizes, videos="Qwen3VLVideoProcessor")


def write_qwen3_5(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Qwen3.5."""
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    config = _config_of_qwen3_5(Qwen3_5Config, folder, sizes)
    model = parts.seeded(Qwen3_5ForConditionalGeneration(config), seed)
    _write_qwen3_5(folder, model, sizes)


def write_qwen3_5_moe(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Qwen3.5 with experts as in `write_qwen3_vl_moe`, and one that all tokens share."""
    from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

    experts = dict(
        num_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
        moe_intermediate_size=sizes.language.mlp // EXPERTS,
        shared_expert_intermediate_size=sizes.language.mlp // EXPERTS,
    )
    config = _config_of_qwen3_5(Qwen3_5MoeConfig, folder, sizes, **experts)
    model = parts.seeded(Qwen3_5MoeForConditionalGeneration(config), seed)
    for name, weight in model.named_parameters():
        if ".experts." in name:  # each of the outputs of an expert has its own inputs
            weight.data *= weight.shape[1] ** 0.5
    _write_qwen3_5(folder, model, sizes)


def _write_qwen3_5(folder: Path, model: Any, sizes: parts.Sizes) -> None:
    """Write a Qwen3.5 whose states last longer than an image has tokens."""
    for name, weight in model.named_parameters():
        if name.endswith(".dt_bias"):
            weight.data.fill_(-6.0)
    parts.save_model(folder, model)
    _write_processors(folder, "Qwen3VLProcessor", 16, sizes, videos="Qwen3VLVideoProcessor")


def _config_of_qwen3_5(config: Any, folder: Path, sizes: parts.Sizes, **text: Any) -> Any:
    """Write the tokenizer, and return a Qwen3.5's configuration, dense or MoE.

    Every second layer of the language model attends; a quarter of each of its heads is rotated. The
    others have a state, no larger than keys and values of 32 tokens, and heads of 64, as vLLM's
    kernels for CPUs can take.

    Args:
        config: class of the configuration.
        text: further arguments of the language model's configuration.
    """
    layers, heads = sizes.language.layers + 1, sizes.language.heads
    vision = _later_vision(sizes, patch=16) | dict(num_position_embeddings=64)
    text |= {
        "num_hidden_layers": layers,
        "layer_types": [("linear", "full")[index % 2] + "_attention" for index in range(layers)],
        "head_dim": 256,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_num_key_heads": heads // 2,
        "linear_num_value_heads": heads,
        "mamba_ssm_dtype": "float32",
    }
    rotated: dict[str, Any] = {"partial_rotary_factor": 0.25, "mrope_section": [11, 11, 10]}
    return _config(config, folder, sizes, vision, text, mrope_interleaved=True, **rotated)


def _config_of_qwen3(config: Any, folder: Path, sizes: parts.Sizes, **text: Any) -> Any:
    """Write the tokenizer, and return a Qwen3-VL's configuration, dense or MoE.

    Two layers of the language model take visual input of their own.

    Args:
        config: class of the configuration.
        text: further arguments of the language model's configuration.
    """
    vision = _later_vision(sizes, patch=16) | dict(
        depth=sizes.vision.layers + 1, num_position_embeddings=64, deepstack_visual_indexes=[0, 1]
    )
    text |= {"head_dim": 2 * sizes.half_head, "num_hidden_layers": sizes.language.layers + 1}
    other = sizes.half_head * 5 // 16
    return _config(config, folder, sizes, vision, text, other, mrope_interleaved=True)


def _later_vision(sizes: parts.Sizes, patch: int) -> dict[str, Any]:
    """Arguments of the vision tower's configuration as Qwen2.5-VL and Qwen3-VL name them."""
    return dict(
        hidden_size=sizes.vision.width,
        intermediate_size=sizes.vision.mlp,
        out_hidden_size=sizes.language.width,
        patch_size=patch,
    )


def _config(
    config: Any,
    folder: Path,
    sizes: parts.Sizes,
    vision: dict[str, Any],
    text: dict[str, Any] | None = None,
    other: int | None = None,
    **rope: Any,
) -> Any:
    """Write the tokenizer, and return the model's configuration.

    Args:
        config: class of the configuration.
        vision: arguments of the tower's configuration, without what all of them have.
        text: further arguments of the language model's configuration.
        other: rotations of a head for height, and as many for width; the rest are for time.
        rope: further parameters of the rotations.
    """
    vocabulary = parts.write_tokenizer(
        folder,
        SPECIAL_TOKENS,
        CHAT_TEMPLATE,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        context=sizes.context,
        vocabulary=sizes.vocabulary,
    )
    other = sizes.half_head * 3 // 8 if other is None else other
    section = {"mrope_section": [sizes.half_head - 2 * other, other, other]}
    return config(
        text_config=dict(
            **parts.text_sizes(vocabulary, sizes) | (text or {}),
            bos_token_id=0,
            eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"),
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, **section, **rope},
        ),
        vision_config={
            "depth": sizes.vision.layers,
            "num_heads": sizes.vision.heads,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            **vision,
        },
        **TOKEN_IDS,
    )


def _write_processors(
    folder: Path, name: str, patch: int, sizes: parts.Sizes, videos: str = "Qwen2VLVideoProcessor"
) -> None:
    token = (MERGE * patch) ** 2
    common = {
        "image_mean": parts.CLIP_MEAN,
        "image_std": parts.CLIP_STD,
        "patch_size": patch,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": MIN_TOKENS * token, "longest_edge": sizes.visual_tokens * token},
    }
    images = {"image_processor_type": "Qwen2VLImageProcessor"}
    parts.write_processors(folder, name, common, images, videos)
