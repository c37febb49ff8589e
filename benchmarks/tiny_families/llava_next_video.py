"""A small LLaVA-NeXT-Video checkpoint, with a visual token for four patches of a frame."""

from __future__ import annotations

import pathlib

from tiny_model import GRIDS, published_name

from tiny_families import parts

SPECIAL_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<video>", "<image>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'video' %}{{ '<video>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ part['text'] + ' ' }}"
    "{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def write_llava_next_video(folder: pathlib.Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a LLaVA-NeXT-Video with a CLIP tower and a Llama."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextVideoConfig,
        LlavaNextVideoForConditionalGeneration,
    )

    vocab_size = parts.write_tokenizer(
        folder, SPECIAL_TOKENS, CHAT_TEMPLATE, eos="</s>", pad="<pad>"
    )
    tile, patch = _tile_and_patch(sizes)
    pinpoints = [[tile * tall, tile * wide] for tall, wide in GRIDS]
    config = LlavaNextVideoConfig(
        text_config=LlamaConfig(**parts.text_sizes(vocab_size, sizes)),
        vision_config=CLIPVisionConfig(
            hidden_size=sizes.vision_width,
            intermediate_size=sizes.vision_mlp,
            num_hidden_layers=sizes.vision_layers + 1,  # the last is not read
            num_attention_heads=sizes.vision_heads,
            image_size=tile,
            patch_size=patch,
            projection_dim=64,
        ),
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        video_token_index=SPECIAL_TOKENS.index("<video>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=pinpoints,
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        tie_word_embeddings=False,
    )
    model = parts.randomise(LlavaNextVideoForConditionalGeneration(config), seed)
    parts.save_model(folder, model, rename=published_name)
    _write_processor(folder, tile, patch, pinpoints)


def _tile_and_patch(sizes: parts.Sizes) -> tuple[int, int]:
    """Sides in pixels of a frame, of whole groups of four patches, and of a patch.

    A patch of 14 as published, where that leaves what vLLM's model divides by: tile // patch**2.
    """
    patch = 14 if sizes.tile >= 14**2 else 7
    return sizes.tile // (2 * patch) * 2 * patch, patch


def _write_processor(
    folder: pathlib.Path, tile: int, patch: int, pinpoints: list[list[int]]
) -> None:
    common = {
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": parts.CLIP_MEAN,
        "image_std": parts.CLIP_STD,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": tile},
        "crop_size": {"height": tile, "width": tile},
        "processor_class": "LlavaNextVideoProcessor",
    }
    images = {
        "image_processor_type": "LlavaNextImageProcessor",
        "image_grid_pinpoints": pinpoints,
        "do_pad": True,
    }
    videos = {"video_processor_type": "LlavaNextVideoVideoProcessor"}
    processor = {
        "processor_class": "LlavaNextVideoProcessor",
        "patch_size": patch,
        "image_token": "<image>",
        "video_token": "<video>",
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    parts.write_json(folder / "preprocessor_config.json", common | images)
    parts.write_json(folder / "video_preprocessor_config.json", common | videos)
    parts.write_json(folder / "processor_config.json", processor)
