"""Small Mistral 3 checkpoints, with a Pixtral tower and a visual token for four patches."""

from __future__ import annotations

from pathlib import Path

from . import parts

MERGE, PATCH = 2, 14
SPECIAL_TOKENS = [
    *("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
]
CHAT_TEMPLATE = (
    "<s>"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' }}"
    "{% elif message['role'] == 'system' %}{{ '[SYSTEM_PROMPT]' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '[IMG]' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[/INST]' }}"
    "{% elif message['role'] == 'system' %}{{ '[/SYSTEM_PROMPT]' }}"
    "{% else %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
)


def write_mistral3(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Mistral Small 3.1, in transformers' format."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    vocabulary = parts.write_tokenizer(
        folder,
        SPECIAL_TOKENS,
        CHAT_TEMPLATE,
        eos="</s>",
        pad="<pad>",
        bos="<s>",
        unk="<unk>",
        context=sizes.context,
    )
    config = Mistral3Config(
        text_config=dict(
            model_type="mistral",
            **parts.text_sizes(vocabulary, sizes),
            head_dim=2 * sizes.half_head,
            sliding_window=None,
            bos_token_id=SPECIAL_TOKENS.index("<s>"),
            eos_token_id=SPECIAL_TOKENS.index("</s>"),
            pad_token_id=SPECIAL_TOKENS.index("<pad>"),
        ),
        vision_config=dict(
            model_type="pixtral",
            hidden_size=sizes.vision.width,
            intermediate_size=sizes.vision.mlp,
            num_hidden_layers=sizes.vision.layers,
            num_attention_heads=sizes.vision.heads,
            image_size=_longest_edge(sizes),
            patch_size=PATCH,
        ),
        image_token_index=SPECIAL_TOKENS.index("[IMG]"),
        spatial_merge_size=MERGE,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    parts.save_model(folder, parts.seeded(Mistral3ForConditionalGeneration(config), seed))
    parts.write_processors(
        folder,
        "PixtralProcessor",
        {
            "image_mean": parts.CLIP_MEAN,
            "image_std": parts.CLIP_STD,
            "patch_size": {"height": PATCH, "width": PATCH},
            "size": {"longest_edge": _longest_edge(sizes)},
        },
        {"image_processor_type": "PixtralImageProcessor"},
        processor={
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "image_token": "[IMG]",
            "image_break_token": "[IMG_BREAK]",
            "image_end_token": "[IMG_END]",
        },
    )


def _longest_edge(sizes: parts.Sizes) -> int:
    """Pixels on the longer side of an image at most; a square one then has all visual tokens."""
    return int(sizes.visual_tokens**0.5) * MERGE * PATCH
