"""Small Qwen2-VL, Qwen2.5-VL and Qwen3-VL checkpoints, with a visual token for four patches."""

from __future__ import annotations

import pathlib

from tiny_families import parts

MERGE = 2
MIN_TOKENS, MAX_TOKENS = 4, 256
"""Of an image; of every second frame of a video, of all its frames in Qwen3-VL."""

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


def text_config(vocab_size: int) -> dict[str, object]:
    """Arguments of the language model's configuration."""
    return parts.text_sizes(vocab_size) | dict(
        bos_token_id=0,
        eos_token_id=SPECIAL_TOKENS.index("<|im_end|>"),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],  # half a head of 32
        },
    )


def write_qwen2_vl(folder: pathlib.Path, seed: int) -> None:
    """Write a Qwen2-VL."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = Qwen2VLConfig(
        text_config=text_config(_write_tokenizer(folder)),
        vision_config=dict(
            depth=2,
            embed_dim=64,
            hidden_size=parts.HIDDEN_SIZE,
            mlp_ratio=2,
            num_heads=2,
            patch_size=14,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
        ),
        **token_ids(),
    )
    parts.save_model(folder, parts.randomise(Qwen2VLForConditionalGeneration(config), seed))
    _write_processor(folder, "Qwen2VLProcessor", 14)


def write_qwen2_5_vl(folder: pathlib.Path, seed: int) -> None:
    """Write a Qwen2.5-VL: two vision layers, one of them with attention over windows of 112."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config=text_config(_write_tokenizer(folder)),
        vision_config=dict(
            depth=2,
            hidden_size=64,
            intermediate_size=128,
            num_heads=2,
            patch_size=14,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            tokens_per_second=2,
            window_size=112,
            out_hidden_size=parts.HIDDEN_SIZE,
            fullatt_block_indexes=[1],
        ),
        **token_ids(),
    )
    parts.save_model(folder, parts.randomise(Qwen2_5_VLForConditionalGeneration(config), seed))
    _write_processor(folder, "Qwen2_5_VLProcessor", 14)


def write_qwen3_vl(folder: pathlib.Path, seed: int) -> None:
    """Write a Qwen3-VL, two of whose language layers take visual input of their own."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = text_config(_write_tokenizer(folder)) | {"head_dim": 32, "num_hidden_layers": 3}
    text["rope_parameters"] |= {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=dict(
            depth=3,
            hidden_size=64,
            intermediate_size=128,
            num_heads=2,
            patch_size=16,
            spatial_merge_size=MERGE,
            temporal_patch_size=2,
            out_hidden_size=parts.HIDDEN_SIZE,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0, 1],
        ),
        **token_ids(),
    )
    parts.save_model(folder, parts.randomise(Qwen3VLForConditionalGeneration(config), seed))
    _write_processor(folder, "Qwen3VLProcessor", 16, videos="Qwen3VLVideoProcessor")


def _write_tokenizer(folder: pathlib.Path) -> int:
    return parts.write_tokenizer(
        folder, SPECIAL_TOKENS, CHAT_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>"
    )


def _write_processor(
    folder: pathlib.Path, processor: str, patch: int, videos: str = "Qwen2VLVideoProcessor"
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
        "size": {"shortest_edge": MIN_TOKENS * token, "longest_edge": MAX_TOKENS * token},
        "processor_class": processor,
    }
    parts.write_json(
        folder / "preprocessor_config.json",
        common | {"image_processor_type": "Qwen2VLImageProcessor"},
    )
    parts.write_json(
        folder / "video_preprocessor_config.json", common | {"video_processor_type": videos}
    )
