"""Small Mistral 3 checkpoints, with a Pixtral tower and a visual token for four patches.

They are in two formats: transformers', and Mistral's own, whose files are params.json,
consolidated.safetensors and tekken.json. With the same seed, a Ministral 3 has the same weights and
special tokens in both.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from . import parts

MERGE, PATCH = 2, 14
MISTRAL_TOKENS = [
    *("<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
]
MINISTRAL_TOKENS = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[TOOL_CONTENT]", "[ARGS]", "[CALL_ID]", "[THINK]", "[/THINK]"),
]
"""Special tokens that Mistral's own tokenizers ask for, in the published order."""
STRETCHED = {
    **{"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "llama_4_scaling_beta": 0.1},
    **{"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    "original_max_position_embeddings": 16384,
}
"""Positions of Ministral 3, as published. Behind the last of them transformers attends more sharply
(llama_4_scaling_beta), which vLLM does of Mistral's own format alone."""
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
OWN_NAMES = {
    r"^model\.vision_tower\.": "vision_encoder.",
    r"^model\.multi_modal_projector\.norm": "pre_mm_projector_norm",
    r"^model\.multi_modal_projector\.patch_merger": "patch_merger",
    r"^model\.multi_modal_projector\.linear_1": "vision_language_adapter.w_in",
    r"^model\.multi_modal_projector\.linear_2": "vision_language_adapter.w_out",
    r"^model\.language_model\.embed_tokens": "tok_embeddings",
    r"^model\.language_model\.": "",
    r"^lm_head": "output",
    r"self_attn\.|attention\.": "attention.",
    r"mlp\.": "feed_forward.",
    r"\.([qkvo])_proj": r".w\1",
    r"gate_proj": "w1",
    r"down_proj": "w2",
    r"up_proj": "w3",
    r"input_layernorm": "attention_norm",
    r"post_attention_layernorm": "ffn_norm",
}
"""Patterns of transformers' names of weights -> what Mistral's own format has instead."""


def write_mistral3(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Mistral Small 3.1, in transformers' format."""
    vocabulary = _write_tokenizer(folder, MISTRAL_TOKENS, sizes)
    parts.save_model(folder, _model(vocabulary, MISTRAL_TOKENS, "mistral", seed, sizes))
    _write_processors(folder, sizes)


def write_ministral3(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Ministral 3, in transformers' format."""
    vocabulary = _write_tokenizer(folder, MINISTRAL_TOKENS, sizes)
    parts.save_model(folder, _model(vocabulary, MINISTRAL_TOKENS, "ministral3", seed, sizes))
    _write_processors(folder, sizes)


def write_pixtral(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Ministral 3 in Mistral's own format, whose class in vLLM is Pixtral's."""
    vocabulary = _write_tokenizer(folder, MINISTRAL_TOKENS, sizes)
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    for path in folder.iterdir():
        path.unlink()
    model = _model(vocabulary, MINISTRAL_TOKENS, "ministral3", seed, sizes)
    weights = _own_weights(model.state_dict(), model.config)
    save_file(weights, folder / "consolidated.safetensors")
    parts.write_json(folder / "params.json", _params(model.config))
    parts.write_json(folder / "tekken.json", _tekken(words, _longest_edge(sizes)))


def _write_tokenizer(folder: Path, special_tokens: list[str], sizes: parts.Sizes) -> int:
    """Write the tokenizer in transformers' format, and return how many entries it has."""
    return parts.write_tokenizer(
        folder,
        special_tokens,
        CHAT_TEMPLATE,
        eos="</s>",
        pad="<pad>",
        bos="<s>",
        unk="<unk>",
        context=sizes.context,
    )


def _model(
    vocabulary: int, special_tokens: list[str], language: str, seed: int, sizes: parts.Sizes
) -> Any:
    """A model of transformers whose language model has this type."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    config = Mistral3Config(
        text_config=dict(
            model_type=language,
            **parts.text_sizes(vocabulary, sizes),
            **({"rope_parameters": STRETCHED} if language == "ministral3" else {}),
            head_dim=2 * sizes.half_head,
            sliding_window=None,
            bos_token_id=special_tokens.index("<s>"),
            eos_token_id=special_tokens.index("</s>"),
            pad_token_id=special_tokens.index("<pad>"),
        ),
        vision_config=dict(
            model_type="pixtral",
            hidden_size=sizes.vision.width,
            intermediate_size=sizes.vision.mlp,
            num_hidden_layers=sizes.vision.layers,
            num_attention_heads=sizes.vision.heads,
            image_size=_longest_edge(sizes),
            patch_size=PATCH,
            hidden_act="silu",
        ),
        image_token_index=special_tokens.index("[IMG]"),
        spatial_merge_size=MERGE,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return parts.seeded(Mistral3ForConditionalGeneration(config), seed)


def _write_processors(folder: Path, sizes: parts.Sizes) -> None:
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


def _params(config: Any) -> dict[str, Any]:
    """The configuration as Mistral's own format has it."""
    text, vision = config.text_config, config.vision_config
    return {
        "dim": text.hidden_size,
        "n_layers": text.num_hidden_layers,
        "head_dim": text.head_dim,
        "hidden_dim": text.intermediate_size,
        "n_heads": text.num_attention_heads,
        "n_kv_heads": text.num_key_value_heads,
        "norm_eps": text.rms_norm_eps,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.max_position_embeddings,
        "rope_theta": STRETCHED["rope_theta"],
        "tied_embeddings": False,
        "yarn": {
            "factor": STRETCHED["factor"],
            "original_max_position_embeddings": STRETCHED["original_max_position_embeddings"],
            "beta": STRETCHED["beta_fast"],
            "alpha": STRETCHED["beta_slow"],
            "apply_scale": False,
        },
        "llama_4_scaling": {
            "beta": STRETCHED["llama_4_scaling_beta"],
            "original_max_position_embeddings": STRETCHED["original_max_position_embeddings"],
        },
        "vision_encoder": {
            "hidden_size": vision.hidden_size,
            "num_channels": vision.num_channels,
            "image_size": vision.image_size,
            "max_image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "rope_theta": vision.rope_parameters["rope_theta"],
            "image_token_id": config.image_token_index,
            "image_break_token_id": MINISTRAL_TOKENS.index("[IMG_BREAK]"),
            "image_end_token_id": MINISTRAL_TOKENS.index("[IMG_END]"),
            "adapter_bias": False,
            "spatial_merge_size": MERGE,
            "mm_projector_id": "patch_merge",
            "add_pre_mm_projector_layer_norm": True,
        },
    }


def _own_weights(weights: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    """The weights under Mistral's own names; queries and keys rotate neighbours there."""
    own = {}
    for name, value in weights.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            is_vision = name.startswith("model.vision_tower.")
            part = config.vision_config if is_vision else config.text_config
            halves = value.view(-1, 2, part.head_dim // 2, value.shape[1])
            value = halves.transpose(1, 2).reshape(value.shape)
        for pattern, replacement in OWN_NAMES.items():
            name = re.sub(pattern, replacement, name)
        own[name] = value.contiguous()
    return own


def _tekken(words: dict[str, int], longest_edge: int) -> dict[str, Any]:
    """The tokenizer as Mistral's own format has it, of a byte-level BPE's words and their ids."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    merged = [
        bytes(letters[letter] for letter in word)
        for word in sorted(words, key=words.__getitem__)
        if len(word) > 1 and word not in MINISTRAL_TOKENS
    ]
    ordered = [bytes([byte]) for byte in range(256)] + merged
    return {
        "config": {
            "pattern": r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
            "num_vocab_tokens": len(ordered),
            "default_vocab_size": len(ordered) + len(MINISTRAL_TOKENS),
            "default_num_special_tokens": len(MINISTRAL_TOKENS),
            "version": "v13",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate(ordered)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": token, "is_control": True}
            for rank, token in enumerate(MINISTRAL_TOKENS)
        ],
        "image": {
            "image_patch_size": PATCH,
            "max_image_size": longest_edge,
            "spatial_merge_size": MERGE,
        },
    }


def _longest_edge(sizes: parts.Sizes) -> int:
    """Pixels on the longer side of an image at most; a square one then has all visual tokens."""
    return int(sizes.visual_tokens**0.5) * MERGE * PATCH
