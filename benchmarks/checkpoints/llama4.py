"""Small Llama 4 checkpoints: tiles, and a layer of experts that attends without positions."""

from __future__ import annotations

from pathlib import Path

from . import parts

PATCH = 14
SHUFFLE = 0.5
"""Visual tokens on a side of a tile, for each patch there."""
MAX_TILES = 16
EXPERTS = 4
SPECIAL_TOKENS = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad|>", "<|header_start|>"),
    *("<|header_end|>", "<|eot|>", "<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>"),
    *("<|tile_x_separator|>", "<|tile_y_separator|>"),
]
CHAT_TEMPLATE = (
    "{{ '<|begin_of_text|>' }}"
    "{% for message in messages %}"
    "{{ '<|header_start|>' + message['role'] + '<|header_end|>\n\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|image|>' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|eot|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %}"
)


def write_llama4(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Llama 4 whose second layer is one with experts and without positions."""
    from transformers import Llama4Config, Llama4ForConditionalGeneration

    vocabulary = parts.write_tokenizer(
        folder,
        SPECIAL_TOKENS,
        CHAT_TEMPLATE,
        eos="<|eot|>",
        pad="<|finetune_right_pad|>",
        bos="<|begin_of_text|>",
        context=sizes.context,
    )
    layers = sizes.language.layers
    tile = _tile(sizes)
    config = Llama4Config(
        text_config=dict(
            **parts.text_sizes(vocabulary, sizes)
            | {"intermediate_size": sizes.language.mlp // EXPERTS},  # of one expert
            intermediate_size_mlp=sizes.language.mlp,
            head_dim=2 * sizes.half_head,
            num_local_experts=EXPERTS,
            interleave_moe_layer_step=2,
            no_rope_layers=[(layer + 1) % 2 for layer in range(layers)],
            bos_token_id=SPECIAL_TOKENS.index("<|begin_of_text|>"),
            eos_token_id=SPECIAL_TOKENS.index("<|eot|>"),
            pad_token_id=SPECIAL_TOKENS.index("<|finetune_right_pad|>"),
        ),
        vision_config=dict(
            hidden_size=sizes.vision.width,
            intermediate_size=round(sizes.vision.width / SHUFFLE**2),
            num_hidden_layers=sizes.vision.layers,
            num_attention_heads=sizes.vision.heads,
            image_size=tile,
            patch_size=PATCH,
            pixel_shuffle_ratio=SHUFFLE,
            projector_input_dim=2 * sizes.vision.width,
            projector_output_dim=2 * sizes.vision.width,
            vision_output_dim=2 * sizes.vision.width,
        ),
        boi_token_index=SPECIAL_TOKENS.index("<|image_start|>"),
        eoi_token_index=SPECIAL_TOKENS.index("<|image_end|>"),
        image_token_index=SPECIAL_TOKENS.index("<|patch|>"),
    )
    parts.save_model(folder, parts.seeded(Llama4ForConditionalGeneration(config), seed))
    parts.write_processors(
        folder,
        "Llama4Processor",
        {
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "size": {"height": tile, "width": tile},
        },
        {"image_processor_type": "Llama4ImageProcessor", "max_patches": MAX_TILES},
        processor={"patch_size": PATCH, "pixel_shuffle_ratio": SHUFFLE},
    )


def _tile(sizes: parts.Sizes) -> int:
    """Side of a tile in pixels: of whole visual tokens."""
    token = round(PATCH / SHUFFLE)
    return round(sizes.tile / token) * token
