"""LLaVA checkpoints: LLaVA-1.5, -NeXT, -NeXT-Video, and -OneVision; and Granite Vision.

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
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '' }}"
    "{% else %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

VIDEO_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<video>", "<image>"]
VIDEO_TEMPLATE = (
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

SIGLIP_PATCH = 14
ONEVISION_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
ONEVISION_TEMPLATE = (
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


def write_llava_next(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a LLaVA-NeXT with a CLIP tower and a Llama, and its CLIP if `sizes` has one."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    def model(arguments: dict[str, Any]) -> Any:
        config = LlavaNextConfig(image_grid_pinpoints=_pinpoints(sizes.tile), **arguments)
        return LlavaNextForConditionalGeneration(config)

    _write_llava(folder, sizes, model)
    images = {
        "image_processor_type": "LlavaNextImageProcessor",
        "do_pad": True,
        "image_grid_pinpoints": _pinpoints(sizes.tile),
    }
    _write_processors(folder, "LlavaNextProcessor", sizes.tile, 14, images)


def write_llava_1_5(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a LLaVA-1.5 with a CLIP tower and a Llama, and its CLIP if `sizes` has one."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    def model(arguments: dict[str, Any]) -> Any:
        return LlavaForConditionalGeneration(LlavaConfig(**arguments))

    _write_llava(folder, sizes, model)
    images = {"image_processor_type": "CLIPImageProcessor"}
    _write_processors(folder, "LlavaProcessor", sizes.tile, 14, images)


def write_llava_next_video(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a LLaVA-NeXT-Video, with a visual token for four patches of a frame."""
    from transformers import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    vocabulary = parts.write_tokenizer(
        folder, VIDEO_TOKENS, VIDEO_TEMPLATE, eos="</s>", pad="<pad>"
    )
    tile, patch = _frame_and_patch(sizes)
    config = LlavaNextVideoConfig(
        text_config={"model_type": "llama", **parts.text_sizes(vocabulary, sizes)},
        vision_config=_vision_config(sizes, tile, patch, projection=64),
        image_token_index=VIDEO_TOKENS.index("<image>"),
        video_token_index=VIDEO_TOKENS.index("<video>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=_pinpoints(tile),
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        tie_word_embeddings=False,
    )
    model = parts.seeded(LlavaNextVideoForConditionalGeneration(config), seed)
    parts.save_model(folder, model, rename=parts.published_name)
    images = {
        "image_processor_type": "LlavaNextImageProcessor",
        "image_grid_pinpoints": _pinpoints(tile),
        "do_pad": True,
    }
    videos = "LlavaNextVideoVideoProcessor"
    _write_processors(folder, "LlavaNextVideoProcessor", tile, patch, images, videos)


def write_granite_vision(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Granite Vision: a LLaVA-NeXT with a Granite, whose SigLIP is read at two layers."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    vocabulary = parts.write_tokenizer(
        folder, SPECIAL_TOKENS, CHAT_TEMPLATE, eos="</s>", pad="<pad>", bos="<s>", unk="<unk>"
    )
    config = LlavaNextConfig(
        text_config={
            "model_type": "granite",
            **parts.text_sizes(vocabulary, sizes),
            **ENDS,
            # Nearer to 1 than published: in so few layers the picture would hardly matter. There is
            # no logits_scaling, which transformers does not apply in a LLaVA-NeXT.
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.8,
            "attention_multiplier": 1.5 * (2 * sizes.half_head) ** -0.5,
        },
        vision_config=_siglip_config(sizes),
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        vision_feature_layer=[-sizes.vision.layers, -1],
        vision_feature_select_strategy="full",
        image_grid_pinpoints=_pinpoints(sizes.tile),
        tie_word_embeddings=False,
    )
    model = parts.seeded(LlavaNextForConditionalGeneration(config), seed)
    parts.save_model(folder, model, rename=parts.published_name)
    parts.write_processors(
        folder,
        "LlavaNextProcessor",
        {
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "size": {"shortest_edge": sizes.tile},
            "crop_size": {"height": sizes.tile, "width": sizes.tile},
        },
        {
            "image_processor_type": "LlavaNextImageProcessor",
            "do_pad": True,
            "image_grid_pinpoints": _pinpoints(sizes.tile),
        },
        processor={
            "patch_size": SIGLIP_PATCH,
            "image_token": "<image>",
            "num_additional_image_tokens": 0,
            "vision_feature_select_strategy": "full",
        },
    )


def write_llava_onevision(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a LLaVA-OneVision with a SigLIP tower and a Qwen2; tiny tiles are 6 x 6 patches."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    vocabulary = parts.write_tokenizer(
        folder, ONEVISION_TOKENS, ONEVISION_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>"
    )
    sides = [sizes.tile * number for number in range(1, sizes.grid + 1)]
    pinpoints = [[height, width] for height in sides for width in sides]
    features: dict[str, Any] = {
        "vision_feature_select_strategy": "full",
        "vision_aspect_ratio": "anyres_max_9",
    }
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **parts.text_sizes(vocabulary, sizes)},
        vision_config=_siglip_config(sizes),
        image_token_index=ONEVISION_TOKENS.index("<image>"),
        video_token_index=ONEVISION_TOKENS.index("<video>"),
        vision_feature_layer=-1,
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=False,
        **features,
    )
    model = parts.seeded(LlavaOnevisionForConditionalGeneration(config), seed)
    parts.save_model(folder, model, rename=parts.published_name)
    images = {
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_grid_pinpoints": pinpoints,
        "do_pad": True,
    }
    parts.write_processors(
        folder,
        "LlavaOnevisionProcessor",
        {
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "size": {"height": sizes.tile, "width": sizes.tile},
        },
        images,
        videos="LlavaOnevisionVideoProcessor",
        processor={
            "image_token": "<image>",
            "video_token": "<video>",
            "num_image_tokens": (sizes.tile // SIGLIP_PATCH) ** 2,
            **features,
        },
    )


def llava_arguments(vocabulary: int, sizes: parts.Sizes) -> dict[str, Any]:
    """Arguments of the configuration of a LLaVA-1.5 or LLaVA-NeXT."""
    return dict(
        vision_config=_vision_config(sizes, sizes.tile, 14, _projection(sizes)),
        text_config={"model_type": "llama", **parts.text_sizes(vocabulary, sizes), **ENDS},
        image_token_index=SPECIAL_TOKENS.index("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )


def _write_llava(folder: Path, sizes: parts.Sizes, llava: Any) -> None:
    """Write tokenizer and weights of a LLaVA, and its CLIP; `llava`: arguments -> model."""
    vocabulary = _write_tokenizer(folder, sizes.context, sizes.vocabulary, "<s>", "</s>")
    arguments = llava_arguments(vocabulary, sizes)
    if sizes.streamed:
        with torch.device("meta"):
            model = llava(arguments)
        parts.stream_model(folder, model, parts.published_name)
    else:
        model = parts.randomise(llava(arguments))
        parts.save_model(folder, model, parts.published_name)
        parts.write_json(folder / "generation_config.json", ENDS)
    if sizes.clip is not None:
        _write_clip(folder / "clip", sizes, sizes.clip, model.model.vision_tower)


def _write_clip(folder: Path, sizes: parts.Sizes, clip: parts.Clip, tower: torch.nn.Module) -> None:
    """Write the CLIPModel that has this vision tower."""
    from transformers import CLIPConfig, CLIPModel

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
        bos_token_id=SPECIAL_TOKENS.index(CLIP_BOS),
        eos_token_id=end,
        pad_token_id=end,
    )
    vision = _vision_config(sizes, sizes.tile, 14, clip.projection)
    if sizes.streamed:
        text["projection_dim"] = clip.projection
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=clip.projection)
    if sizes.streamed:
        with torch.device("meta"):
            model = CLIPModel(config)
        parts.stream_model(folder, model)  # the tower's weights have the names of the LLaVA's
    else:
        model = CLIPModel(config)
        parts.randomise(model, gain=1.0)
        model.vision_model.load_state_dict(tower.state_dict())
        model.save_pretrained(folder)


def _write_tokenizer(folder: Path, context: int, vocabulary: int, bos: str, eos: str) -> int:
    ends: dict[str, Any] = dict(bos=bos, eos=eos, unk="<unk>", pad="<pad>")
    lengths: dict[str, Any] = dict(context=context, vocabulary=vocabulary)
    return parts.write_tokenizer(folder, SPECIAL_TOKENS, CHAT_TEMPLATE, **ends, **lengths)


def _vision_config(sizes: parts.Sizes, tile: int, patch: int, projection: int) -> dict[str, Any]:
    return dict(
        model_type="clip_vision_model",
        hidden_size=sizes.vision.width,
        intermediate_size=sizes.vision.mlp,
        num_hidden_layers=sizes.vision.layers + 1,  # LLaVA reads the last layer but one
        num_attention_heads=sizes.vision.heads,
        image_size=tile,
        patch_size=patch,
        projection_dim=projection,
    )


def _siglip_config(sizes: parts.Sizes) -> dict[str, Any]:
    return dict(
        model_type="siglip_vision_model",
        hidden_size=sizes.vision.width,
        intermediate_size=sizes.vision.mlp,
        num_hidden_layers=sizes.vision.layers,
        num_attention_heads=sizes.vision.heads,
        image_size=sizes.tile,
        patch_size=SIGLIP_PATCH,
        vision_use_head=False,
    )


def _projection(sizes: parts.Sizes) -> int:
    return sizes.clip.projection if sizes.clip else sizes.vision.width


def _pinpoints(tile: int) -> list[list[int]]:
    """Height and width in pixels of the grids that an image is cut into."""
    return [[tall * tile, wide * tile] for tall, wide in parts.GRIDS]


def _frame_and_patch(sizes: parts.Sizes) -> tuple[int, int]:
    """Sides in pixels of a frame, of whole groups of four patches, and of a patch.

    A patch of 14 as published, where that leaves what vLLM's model divides by: tile // patch**2.
    """
    patch = 14 if sizes.tile >= 14**2 else 7
    return sizes.tile // (2 * patch) * 2 * patch, patch


def _write_processors(
    folder: Path,
    name: str,
    tile: int,
    patch: int,
    images: dict[str, Any],
    videos: str | None = None,
) -> None:
    """Write the processors' configurations of a model with a CLIP tower."""
    common = {
        "do_center_crop": True,
        "image_mean": parts.CLIP_MEAN,
        "image_std": parts.CLIP_STD,
        "size": {"shortest_edge": tile},
        "crop_size": {"height": tile, "width": tile},
    }
    processor = {
        "patch_size": patch,
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    if videos is not None:
        processor["video_token"] = "<video>"
    parts.write_processors(folder, name, common, images, videos, processor)
