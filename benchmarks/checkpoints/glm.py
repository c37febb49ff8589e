"""Small GLM-4.1V and GLM-4.6V checkpoints, with a visual token for four patches.

The first has a dense language model, as GLM-4.6V-Flash has, and the processors of GLM-4.1V and
GLM-4.5V. The second has experts, as GLM-4.5V has, and the processors of GLM-4.6V, which write time
stamps in another form.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import parts

MERGE, PATCH, FRAMES = 2, 14, 2
EXPERTS, ACTIVE = 8, 2
"""Experts of a layer, and how many of them a token goes through beside the one that all share."""
MIN_TOKENS = 4
"""Fewest visual tokens of an item. A bound, this and the most, holds for all frames together."""

SPECIAL_TOKENS = [
    *("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"),
    *("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    *("<|image|>", "<|video|>"),
]
CHAT_TEMPLATE = (
    "[gMASK]<sop>"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|begin_of_image|><|image|><|end_of_image|>' }}"
    "{% elif part['type'] == 'video' %}{{ '<|begin_of_video|><|video|><|end_of_video|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TOKEN_IDS = {
    **{f"{name}_token_id": SPECIAL_TOKENS.index(f"<|{name}|>") for name in ("image", "video")},
    **{
        f"{name}_{end}_token_id": SPECIAL_TOKENS.index(f"<|{word}_of_{name}|>")
        for name in ("image", "video")
        for end, word in (("start", "begin"), ("end", "end"))
    },
}
"""Arguments of a configuration that name special tokens."""


def write_glm4_1v(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a GLM-4.1V."""
    from transformers import Glm4vConfig, Glm4vForConditionalGeneration

    config = _config(Glm4vConfig, folder, sizes)
    parts.save_model(folder, parts.seeded(Glm4vForConditionalGeneration(config), seed))
    _write_processors(folder, "Glm4v", sizes)


def write_glm4_6v(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a GLM-4.6V, whose first layer is dense, and whose experts are as wide together.

    As in the published checkpoints the projections of every expert are tensors of their own.
    """
    from transformers import Glm4vMoeConfig, Glm4vMoeForConditionalGeneration

    experts = dict(
        n_routed_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
        moe_intermediate_size=sizes.language.mlp // EXPERTS,
        first_k_dense_replace=1,
        head_dim=2 * sizes.half_head,  # this and the next: what vLLM reads, as published
        use_qk_norm=False,
    )
    config = _config(Glm4vMoeConfig, folder, sizes, **experts)
    model = parts.seeded(Glm4vMoeForConditionalGeneration(config), seed)
    parts.write_config(folder, model)
    parts.write_json(folder / "generation_config.json", {})
    parts.save_weights(folder, _expert_by_expert(model.state_dict()))
    _write_processors(folder, "Glm46V", sizes)


def _expert_by_expert(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with a tensor for each projection of an expert: [experts, out, in] before."""
    single = {}
    for name, weight in weights.items():
        layer, found, projection = name.partition(".experts.")
        if not found:
            single[name] = weight
            continue
        weight = weight * weight.shape[1] ** 0.5  # each output of an expert has its own inputs
        names = ("gate_proj", "up_proj") if projection == "gate_up_proj" else ("down_proj",)
        for expert, own in enumerate(weight):
            for each, part in zip(names, own.chunk(len(names)), strict=True):
                single[f"{layer}.experts.{expert}.{each}.weight"] = part
    return single


def _config(config: Any, folder: Path, sizes: parts.Sizes, **text: Any) -> Any:
    """Write the tokenizer, and return the model's configuration.

    Args:
        config: class of the configuration.
        text: further arguments of the language model's configuration.
    """
    vocabulary = parts.write_tokenizer(
        folder,
        SPECIAL_TOKENS,
        CHAT_TEMPLATE,
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        context=sizes.context,
    )
    rotations = sizes.half_head // 2  # of half of a head
    other = rotations * 3 // 8
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [rotations - 2 * other, other, other],
    }
    return config(
        text_config=dict(
            **parts.text_sizes(vocabulary, sizes),
            attention_bias=True,
            eos_token_id=SPECIAL_TOKENS.index("<|endoftext|>"),
            pad_token_id=SPECIAL_TOKENS.index("<|endoftext|>"),
            rope_parameters=rope,
            **text,
        ),
        vision_config=dict(
            depth=sizes.vision.layers,
            hidden_size=sizes.vision.width,
            num_heads=sizes.vision.heads,
            image_size=_tile(sizes),
            patch_size=PATCH,
            out_hidden_size=sizes.language.width,
            intermediate_size=sizes.vision.mlp,
            spatial_merge_size=MERGE,
            temporal_patch_size=FRAMES,
        ),
        **TOKEN_IDS,
    )


def _tile(sizes: parts.Sizes) -> int:
    """Side in pixels that the tower's table of positions is for; other sizes are interpolated."""
    return sizes.tile // PATCH * PATCH


def _write_processors(folder: Path, name: str, sizes: parts.Sizes) -> None:
    """Write the processors' configurations; `name`: how their classes begin."""
    token = (MERGE * PATCH) ** 2 * FRAMES
    common = {
        "image_mean": parts.CLIP_MEAN,
        "image_std": parts.CLIP_STD,
        "patch_size": PATCH,
        "merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "size": {"shortest_edge": MIN_TOKENS * token, "longest_edge": sizes.visual_tokens * token},
    }
    images = {"image_processor_type": f"{name}ImageProcessor"}
    parts.write_processors(
        folder, f"{name}Processor", common, images, videos=f"{name}VideoProcessor"
    )
