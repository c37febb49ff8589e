"""A small LLaVA-OneVision checkpoint; its tiny tiles of 84 pixels are 6 x 6 patches."""

from __future__ import annotations

import pathlib

from tiny_model import published_name

from tiny_families import parts

PATCH = 14
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + ' \n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_llava_onevision(folder: pathlib.Path, seed: int, sizes: parts.Sizes = parts.TINY) -> None:
    """Write a LLaVA-OneVision with a SigLIP tower and a Qwen2."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    vocab_size = parts.write_tokenizer(
        folder, SPECIAL_TOKENS, CHAT_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>"
    )
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**parts.text_sizes(vocab_size, sizes)),
        vision_config=SiglipVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=sizes.vision_mlp,
            num_hidden_layers=sizes.vision_layers,
            num_attention_heads=sizes.vision_heads,
            image_size=sizes.tile,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        video_token_index=SPECIAL_TOKENS.index("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        image_grid_pinpoints=_pinpoints(sizes),
        tie_word_embeddings=False,
    )
    model = parts.randomise(LlavaOnevisionForConditionalGeneration(config), seed)
    parts.save_model(folder, model, rename=published_name)
    _write_processor(folder, sizes)


def _pinpoints(sizes: parts.Sizes) -> list[list[int]]:
    sides = [sizes.tile * number for number in range(1, sizes.grid + 1)]
    return [[height, width] for height in sides for width in sides]


def _write_processor(folder: pathlib.Path, sizes: parts.Sizes) -> None:
    common = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": sizes.tile, "width": sizes.tile},
        "processor_class": "LlavaOnevisionProcessor",
    }
    images = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": _pinpoints(sizes),
        "do_pad": True,
    }
    videos = {"video_processor_type": "LlavaOnevisionVideoProcessor"}
    processor = {
        "processor_class": "LlavaOnevisionProcessor",
        "image_token": "<image>",
        "video_token": "<video>",
        "num_image_tokens": (sizes.tile // PATCH) ** 2,
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    }
    parts.write_json(folder / "preprocessor_config.json", common | images)
    parts.write_json(folder / "video_preprocessor_config.json", common | videos)
    parts.write_json(folder / "processor_config.json", processor)
