"""Small InternVL checkpoints in both formats, with a visual token for four patches of a tile.

With the same seed both hold the same weights: internvl-chat has them under the names of the
OpenGVLab checkpoints, internvl under those of the ones whose names end in -hf. The `language`
of a writer is the type of the language model: qwen2 in InternVL 2.5 and 3, qwen3 in InternVL 3.5.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from . import parts

PATCH = 14
MAX_TILES = 12
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CONFIGURATION = Path(__file__).with_name("configuration_internvl_chat.py")

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
TURN = "{{ '<|im_start|>' + message['role'] + '\n' }}"
ANSWER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN}{{{{ message['content'] + '<|im_end|>\n' }}}}"
    "{% endfor %}"
    f"{ANSWER}"
)
TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    f"{ANSWER}"
)
SAME_NAMES = (
    *("hidden_act", "hidden_size", "intermediate_size", "layer_norm_eps", "norm_type"),
    *("num_attention_heads", "num_channels", "num_hidden_layers"),
)
"""Settings of the vision tower that both formats call alike."""
CHAT_NAMES = {
    r"^model\.vision_tower\.": "vision_model.",
    r"^model\.multi_modal_projector\.layer_norm": "mlp1.0",
    r"^model\.multi_modal_projector\.linear_1": "mlp1.1",
    r"^model\.multi_modal_projector\.linear_2": "mlp1.3",
    r"^model\.language_model\.": "language_model.model.",
    r"^lm_head": "language_model.lm_head",
    r"embeddings\.cls_token": "embeddings.class_embedding",
    r"embeddings\.patch_embeddings\.projection": "embeddings.patch_embedding",
    r"embeddings\.position_embeddings": "embeddings.position_embedding",
    r"encoder\.layer\.": "encoder.layers.",
    r"attention\.projection_layer": "attn.proj",
    r"layernorm_before": "norm1",
    r"layernorm_after": "norm2",
    r"lambda_(\d)": r"ls\1",
}


def write_internvl(folder: Path, seed: int, sizes: parts.Sizes, language: str = "qwen2") -> None:
    """Write an InternVL in transformers' format."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    vocab_size = _write_tokenizer(folder, "<video>", TEMPLATE, extra_special_tokens=named)
    parts.save_model(folder, _model(vocab_size, seed, sizes, language))
    tile = {"height": _tile(sizes), "width": _tile(sizes)}
    images = {
        "image_processor_type": "GotOcr2ImageProcessor",
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": MAX_TILES,
    }
    parts.write_processors(
        folder,
        "InternVLProcessor",
        {"image_mean": MEAN, "image_std": STD, "size": tile},
        images,
        videos="InternVLVideoProcessor",
        processor={"image_seq_length": _tile_tokens(sizes)},
    )


def write_interns1(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write an InternVL 3.5 under the name that vLLM's class has of Intern-S1, which is dense here.

    Intern-S1's own processor is code that comes with its checkpoints.
    """
    write_internvl(folder, seed, sizes, language="qwen3")
    path = folder / "config.json"
    named = {"architectures": ["InternS1ForConditionalGeneration"]}
    parts.write_json(path, json.loads(path.read_text()) | named)


def write_internvl_chat(
    folder: Path, seed: int, sizes: parts.Sizes, language: str = "qwen2"
) -> None:
    """Write an InternVL in its own format, with the code of its configuration."""
    vocab_size = _write_tokenizer(folder, "<|video_pad|>", CHAT_TEMPLATE)
    model = _model(vocab_size, seed, sizes, language)
    parts.write_json(folder / "config.json", _chat_config(model.config))
    parts.write_json(folder / "generation_config.json", {})
    parts.save_weights(folder, _chat_weights(model.state_dict()))
    shutil.copy(CONFIGURATION, folder)


def _write_tokenizer(folder: Path, video_token: str, chat_template: str, **settings: Any) -> int:
    tokens, eos, pad = [*TOKENS, video_token], "<|im_end|>", "<|endoftext|>"
    return parts.write_tokenizer(folder, tokens, chat_template, eos=eos, pad=pad, **settings)


def _tile(sizes: parts.Sizes) -> int:
    """Side of a tile in pixels: of whole groups of four patches."""
    return round(sizes.tile / PATCH / 2) * 2 * PATCH


def _tile_tokens(sizes: parts.Sizes) -> int:
    return (_tile(sizes) // PATCH // 2) ** 2


def _model(vocab_size: int, seed: int, sizes: parts.Sizes, language: str) -> Any:
    from transformers import AutoConfig, InternVLConfig, InternVLForConditionalGeneration

    text = parts.text_sizes(vocab_size, sizes) | {"head_dim": 2 * sizes.half_head}
    config = InternVLConfig(
        text_config=AutoConfig.for_model(language, **text),
        vision_config=dict(
            hidden_size=sizes.vision.width,
            intermediate_size=sizes.vision.mlp,
            num_hidden_layers=sizes.vision.layers,
            num_attention_heads=sizes.vision.heads,
            image_size=[_tile(sizes), _tile(sizes)],
            patch_size=[PATCH, PATCH],
            attention_bias=True,
        ),
        image_token_id=TOKENS.index("<IMG_CONTEXT>"),
        image_seq_length=_tile_tokens(sizes),
        tie_word_embeddings=False,
    )
    return parts.seeded(InternVLForConditionalGeneration(config), seed)


def _chat_config(config: Any) -> dict[str, Any]:
    """The configuration as the OpenGVLab checkpoints have it."""
    vision = config.vision_config
    tile = vision.image_size[0]
    language = type(config.text_config).__name__.replace("Config", "ForCausalLM")
    return {
        "architectures": ["InternVLChatModel"],
        "auto_map": {"AutoConfig": f"{CONFIGURATION.stem}.InternVLChatConfig"},
        "model_type": "internvl_chat",
        "downsample_ratio": config.downsample_ratio,
        "dynamic_image_size": True,
        "force_image_size": tile,
        "llm_config": config.text_config.to_diff_dict() | {"architectures": [language]},
        "max_dynamic_patch": MAX_TILES,
        "min_dynamic_patch": 1,
        "ps_version": "v2",
        "select_layer": -1,
        "template": "internvl2_5",
        "use_thumbnail": True,
        "vision_config": {
            **{name: getattr(vision, name) for name in SAME_NAMES},
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "image_size": tile,
            "initializer_factor": 1.0,
            "patch_size": PATCH,
            "qk_normalization": vision.use_qk_norm,
            "qkv_bias": vision.attention_bias,
        },
    }


def _chat_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights under the names of the OpenGVLab checkpoints; q, k and v are one there."""
    chat = {}
    for name, value in weights.items():
        if ".attention.q_proj." in name:
            three = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name, value = name.replace("attention.q_proj", "attn.qkv"), torch.cat(three)
        elif ".attention.k_proj." in name or ".attention.v_proj." in name:
            continue
        for pattern, replacement in CHAT_NAMES.items():
            name = re.sub(pattern, replacement, name)
        chat[name] = value
    return chat
