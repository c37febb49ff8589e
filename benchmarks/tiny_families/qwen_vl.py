"""Small Qwen2-VL, Qwen2.5-VL and Qwen3-VL checkpoints, with a visual token for four patches."""

from __future__ import annotations

import pathlib

from tiny_families import parts

MERGE = 2
MIN_TOKENS = 4
"""Of an image; of every second frame of a video, of all its frames in Qwen3-VL. So is the most."""

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


def token_ids() -> dict[str, int]:
    """Arguments of a configuration that name special tokens."""
    return {
        f"{name}_token_id": SPECIAL_TOKENS.index(token)
        for name, token in [
            ("image", "<|image_pad|>"),
            ("video", "<|video_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
        ]
    }


def text_config(vocab_size: int, sizes: parts.Sizes) -> dict[str, object]:
    """Arguments of the language model's configuration."""
    other = sizes.half_head * 3 // 8
    return parts.text_sizes(vocab_size, sizes) | dict(
        bos_token_id=0,
        eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [sizes.half_head - 2 * other, other, other],
        },
    )


def write_qwen2_vl(folder: pathlib.Path, seed: int, sizes: parts.Sizes = parts.TINY) -> None:
    """Write a Qwen2-VL."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = Qwen2VLConfig(
        text_config=text_config(_write_tokenizer(folder), sizes),
        vision_config=dict(
            depth=sizes.vision_layers,
            embed_dim=sizes.vision_width,
            hidden_size=sizes.width,
            mlp_ratio=sizes.vision_mlp // sizes.vision_width,
            num_heads=sizes.vision_heads,
            patch_size=14,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
        ),
        **token_ids(),
    )
    parts.save_model(folder, parts.randomise(Qwen2VLForConditionalGeneration(config), seed))
    _write_processor(folder, "Qwen2VLProcessor", 14, sizes)


def write_qwen2_5_vl(folder: pathlib.Path, seed: int, sizes: parts.Sizes = parts.TINY) -> None:
    """Write a Qwen2.5-VL: all vision layers but the last have attention over windows of 112."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config=text_config(_write_tokenizer(folder), sizes),
        vision_config=dict(
            depth=sizes.vision_layers,
            hidden_size=sizes.vision_width,
            intermediate_size=sizes.vision_mlp,
            num_heads=sizes.vision_heads,
            patch_size=14,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            tokens_per_second=2,
            window_size=112,
            out_hidden_size=sizes.width,
            fullatt_block_indexes=[sizes.vision_layers - 1],
        ),
        **token_ids(),
    )
    parts.save_model(folder, parts.randomise(Qwen2_5_VLForConditionalGeneration(config), seed))
    _write_processor(folder, "Qwen2_5_VLProcessor", 14, sizes)


def write_qwen3_vl(folder: pathlib.Path, seed: int, sizes: parts.Sizes = parts.TINY) -> None:
    """Write a Qwen3-VL, two of whose language layers take visual input of their own."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = text_config(_write_tokenizer(folder), sizes)
    text |= {"head_dim": 2 * sizes.half_head, "num_hidden_layers": sizes.layers + 1}
    other = sizes.half_head * 5 // 16
    section = [sizes.half_head - 2 * other, other, other]
    text["rope_parameters"] |= {"mrope_section": section, "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=dict(
            depth=sizes.vision_layers + 1,
            hidden_size=sizes.vision_width,
            intermediate_size=sizes.vision_mlp,
            num_heads=sizes.vision_heads,
            patch_size=16,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            out_hidden_size=sizes.width,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0, 1],
        ),
        **token_ids(),
    )
    parts.save_model(folder, parts.randomise(Qwen3VLForConditionalGeneration(config), seed))
    _write_processor(folder, "Qwen3VLProcessor", 16, sizes, videos="Qwen3VLVideoProcessor")


def _write_tokenizer(folder: pathlib.Path) -> int:
    return parts.write_tokenizer(
        folder, SPECIAL_TOKENS, CHAT_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>"
    )


def _write_processor(
    folder: pathlib.Path,
    processor: str,
    patch: int,
    sizes: parts.Sizes,
    videos: str = "Qwen2VLVideoProcessor",
) -> None:
    token = (MERGE * patch) ** 2
    common = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": parts.CLIP_MEAN,
        "image_std": parts.CLIP_STD,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "patch_size": patch,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": MIN_TOKENS * token, "longest_edge": sizes.visual_tokens * token},
        "processor_class": processor,
    }
    parts.write_json(
        folder / "preprocessor_config.json",
        common | {"image_processor_type": "Qwen2VLImageProcessor"},
    )
    parts.write_json(
        folder / "video_preprocessor_config.json", common | {"video_processor_type": videos}
    )
