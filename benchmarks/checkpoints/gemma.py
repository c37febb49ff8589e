"""Small Gemma checkpoints; every other layer of their language models has a sliding window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import parts

PATCH = 14
POOL = 2
"""Patches on a side of what becomes one visual token of Gemma 3."""
GEMMA4_PATCH, GEMMA4_POOL = 16, 3
WINDOW = 64
"""Tokens that a layer with a sliding window sees, the newest among them."""

NEWLINES = ["\n" * number for number in range(1, 5)]
"""Tokens of their own in Gemma 3, which vLLM reads in prompts."""
GEMMA3_TOKENS = [
    *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    *("<start_of_image>", "<end_of_image>", "<image_soft_token>", *NEWLINES),
]
GEMMA4_TOKENS = [
    *("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
    *("<|image>", "<image|>", "<|image|>", "<|video|>", "<|audio>", "<audio|>", "<|audio|>"),
]
GEMMA4_MOST = 70
"""Visual tokens of an image or a frame at most: the fewest that the processor can be set to."""
TEMPLATE = (
    "{{ '<bos>' }}"
    "{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ 'IMAGE' }}"
    "{% elif part['type'] == 'video' %}{{ '<|video|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)


GEMMA3_TEMPLATE = TEMPLATE.replace("IMAGE", "<start_of_image>")
GEMMA4_TEMPLATE = TEMPLATE.replace("IMAGE", "<|image|>")


def write_gemma3(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Gemma 3 with a SigLIP tower."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    vocabulary = parts.write_tokenizer(
        folder,
        GEMMA3_TOKENS,
        GEMMA3_TEMPLATE,
        eos="<eos>",
        pad="<pad>",
        bos="<bos>",
        unk="<unk>",
        extra_special_tokens=named,
    )
    tile = sizes.tile // (POOL * PATCH) * (POOL * PATCH)
    tile_tokens = (tile // PATCH // POOL) ** 2
    head = 2 * sizes.half_head
    marks: dict[str, Any] = {f"{n}_index": GEMMA3_TOKENS.index(token) for n, token in named.items()}
    config = Gemma3Config(
        text_config=parts.text_sizes(vocabulary, sizes)
        | dict(
            head_dim=head,
            query_pre_attn_scalar=head,
            sliding_window=WINDOW,
            layer_types=_layer_types(sizes),
            tie_word_embeddings=True,
        ),
        vision_config=dict(
            hidden_size=sizes.vision.width,
            intermediate_size=sizes.vision.mlp,
            num_hidden_layers=sizes.vision.layers,
            num_attention_heads=sizes.vision.heads,
            image_size=tile,
            patch_size=PATCH,
            vision_use_head=False,
        ),
        mm_tokens_per_image=tile_tokens,
        **marks,
    )
    model = parts.seeded(Gemma3ForConditionalGeneration(config), seed)
    _save(folder, model, rename=parts.published_name)
    parts.write_processors(
        folder,
        "Gemma3Processor",
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": tile, "width": tile}},
        {"image_processor_type": "Gemma3ImageProcessor", "image_seq_length": tile_tokens},
        processor={"image_seq_length": tile_tokens},
    )


def write_gemma4(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Gemma 4 without an audio tower, whose layers have inputs of their own (PLE)."""
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    named = {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
        "audio_token": "<|audio|>",
    }
    vocabulary = parts.write_tokenizer(
        folder,
        GEMMA4_TOKENS,
        GEMMA4_TEMPLATE,
        eos="<eos>",
        pad="<pad>",
        bos="<bos>",
        unk="<unk>",
        extra_special_tokens=named,
    )
    head = 2 * sizes.half_head
    marks: dict[str, Any] = {f"{n}_id": GEMMA4_TOKENS.index(token) for n, token in named.items()}
    marks["eoa_token_index"] = marks.pop("eoa_token_id")
    config = Gemma4Config(
        text_config=parts.text_sizes(vocabulary, sizes)
        | dict(
            head_dim=head,
            global_head_dim=head,  # published: twice as wide; vLLM's blocks are then larger
            sliding_window=WINDOW,
            layer_types=_layer_types(sizes),
            tie_word_embeddings=True,
            vocab_size_per_layer_input=vocabulary,
            hidden_size_per_layer_input=16,
            use_bidirectional_attention="vision",
        ),
        vision_config=dict(
            hidden_size=sizes.vision.width,
            intermediate_size=sizes.vision.mlp,
            num_hidden_layers=sizes.vision.layers,
            num_attention_heads=sizes.vision.heads,
            num_key_value_heads=sizes.vision.heads,
            head_dim=sizes.vision.width // sizes.vision.heads,
            pooling_kernel_size=GEMMA4_POOL,
            patch_size=GEMMA4_PATCH,
            position_embedding_size=1024,
            default_output_length=GEMMA4_MOST,
        ),
        audio_config=None,
        video_token_id=GEMMA4_TOKENS.index("<|video|>"),
        **marks,
    )
    model = parts.seeded(Gemma4ForConditionalGeneration(config), seed)
    _save(folder, model)
    images = {
        "do_normalize": False,
        "max_soft_tokens": GEMMA4_MOST,
        "patch_size": GEMMA4_PATCH,
        "pooling_kernel_size": GEMMA4_POOL,
    }
    parts.write_processors(
        folder,
        "Gemma4Processor",
        images,
        {
            "image_processor_type": "Gemma4ImageProcessor",
            "feature_extractor_type": "Gemma4AudioFeatureExtractor",
        },
        videos="Gemma4VideoProcessor",
        processor={"image_seq_length": GEMMA4_MOST},
    )


def _layer_types(sizes: parts.Sizes) -> list[str]:
    """Kinds of attention of the language model's layers, a window first."""
    kinds = ("sliding_attention", "full_attention")
    return [kinds[layer % 2] for layer in range(sizes.language.layers)]


def _save(folder: Path, model: Any, rename: Callable[[str], str] = str) -> None:
    """Write configuration and weights as published, without the output weights, which are tied."""
    parts.write_config(folder, model)
    parts.write_json(folder / "generation_config.json", {})
    weights: dict[str, torch.Tensor] = {
        rename(name): value
        for name, value in model.state_dict().items()
        if not name.startswith("lm_head.")
    }
    parts.save_weights(folder, weights)
