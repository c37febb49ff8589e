"""Small Kimi-VL checkpoints: a tower that takes any size, and a language model as DeepSeek's.

For images Kimi-VL's tower is that of Kimi-K2.5, which transformers has. So the weights are those of
a Kimi-K2.5 under Kimi-VL's names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import parts

PATCH, MERGE = 14, 2
PROCESSOR = Path(__file__).with_name("processing_kimi_vl.py")
TOKENS = [
    *("[BOS]", "[EOS]", "[PAD]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>"),
    *("<|im_middle|>", "<|media_start|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>"),
]
IMAGE = "<|media_start|>image<|media_content|><|media_pad|><|media_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_' + message['role'] + '|>' + message['role'] + '<|im_middle|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    f"{{% if part['type'] == 'image' %}}{{{{ '{IMAGE}' }}}}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
STRETCHED = {
    **{"rope_type": "yarn", "rope_theta": 50000.0, "factor": 2.0, "mscale": 1.0},
    **{"mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0},
    "original_max_position_embeddings": 4096,
}
"""Positions as Kimi-K2.5 has them. Kimi-VL's are plain, by which vLLM on CPUs, run eagerly, turns
queries wrongly: its kernel takes those whose heads have an axis of their own, as here, for those of
one head."""
SAME_NAMES = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
    *("merge_kernel_size", "patch_size"),
)
"""Settings of the tower that both models call alike."""
NAMES: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"^model\.language_model\.": "language_model.model.",
    r"^lm_head\.": "language_model.lm_head.",
    r"^model\.mm_projector\.in_proj": "multi_modal_projector.linear_1",
    r"^model\.mm_projector\.out_proj": "multi_modal_projector.linear_2",
    r"^model\.mm_projector\.": "multi_modal_projector.",
    r"^model\.vision_tower\.layers\.": "vision_tower.encoder.blocks.",
    r"^model\.vision_tower\.final_": "vision_tower.encoder.final_",
    r"^model\.vision_tower\.": "vision_tower.",
    r"position_embeddings$": "weight",
    r"norm([12])\.": lambda found: f"norm{int(found[1]) - 1}.",
    r"mlp\.fc([12])": lambda found: f"mlp.fc{int(found[1]) - 1}",
    r"attn\.proj": "wo",
}
"""Patterns of transformers' names of weights -> what Kimi-VL's checkpoints have instead."""


def write_kimi_vl(folder: Path, seed: int, sizes: parts.Sizes) -> None:
    """Write a Kimi-VL without experts, with the code of its processor."""
    vocabulary = parts.write_tokenizer(
        folder,
        TOKENS,
        CHAT_TEMPLATE,
        eos="<|im_end|>",
        pad="[PAD]",
        bos="[BOS]",
        context=sizes.context,
    )
    model = _model(vocabulary, seed, sizes)
    parts.write_json(folder / "config.json", _config(model.config))
    parts.write_json(folder / "generation_config.json", {})
    parts.save_weights(folder, _weights(model.state_dict(), model.config.vision_config))
    kinds = ("ImageProcessor", "Processor")
    images = {
        "auto_map": {f"Auto{kind}": f"{PROCESSOR.stem}.KimiVL{kind}" for kind in kinds},
        "image_processor_type": "KimiVLImageProcessor",
        "in_token_limit": sizes.visual_tokens * MERGE**2,
        "merge_kernel_size": [MERGE, MERGE],
        "patch_size": PATCH,
    }
    parts.write_json(folder / "preprocessor_config.json", images)
    shutil.copy(PROCESSOR, folder)


def _model(vocabulary: int, seed: int, sizes: parts.Sizes) -> Any:
    """A Kimi-K2.5 of transformers."""
    from transformers import Kimi_K25Config, Kimi_K25ForConditionalGeneration

    side = round(sizes.visual_tokens**0.5) * MERGE
    config = Kimi_K25Config(
        text_config=dict(
            model_type="deepseek_v3",
            **parts.text_sizes(vocabulary, sizes),
            first_k_dense_replace=sizes.language.layers,
            kv_lora_rank=sizes.language.width // 2,
            q_lora_rank=None,
            qk_nope_head_dim=sizes.half_head,
            qk_rope_head_dim=sizes.half_head,
            v_head_dim=2 * sizes.half_head,
            rope_parameters=STRETCHED,
        ),
        vision_config=dict(
            hidden_size=sizes.vision.width,
            intermediate_size=sizes.vision.mlp,
            num_hidden_layers=sizes.vision.layers,
            num_attention_heads=sizes.vision.heads,
            merge_kernel_size=[MERGE, MERGE],
            patch_size=PATCH,
            pos_emb_height=side,
            pos_emb_width=side,
        ),
        projection_hidden_size=sizes.vision.width,
        image_token_id=TOKENS.index("<|media_pad|>"),
        tie_word_embeddings=False,
    )
    return parts.seeded(Kimi_K25ForConditionalGeneration(config), seed)


def _config(config: Any) -> dict[str, Any]:
    """The configuration as Kimi-VL's checkpoints have it."""
    vision = config.vision_config
    return {
        "architectures": ["KimiVLForConditionalGeneration"],
        "model_type": "kimi_vl",
        "media_placeholder_token_id": config.image_token_id,
        "text_config": config.text_config.to_diff_dict(),
        "vision_config": {
            **{name: getattr(vision, name) for name in SAME_NAMES},
            "model_type": "moonvit",
            "init_pos_emb_height": vision.pos_emb_height,
            "init_pos_emb_width": vision.pos_emb_width,
        },
    }


def _weights(weights: dict[str, torch.Tensor], vision_config: Any) -> dict[str, torch.Tensor]:
    """The weights under Kimi-VL's names.

    The tower's q, k and v are one there, and its queries and keys rotate neighbours.
    """
    own = {}
    for name, value in weights.items():
        if name.startswith("model.vision_tower.") and ".attn.q_proj." in name:
            q, k, v = (weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv")
            rotated = (_neighbours(each, vision_config.num_attention_heads) for each in (q, k))
            name, value = name.replace("attn.q_proj", "wqkv"), torch.cat([*rotated, v])
        elif name.startswith("model.vision_tower.") and re.search(r"\.attn\.[kv]_proj\.", name):
            continue
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        own[name] = value
    return own


def _neighbours(value: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys whose halves of a head rotate together, with these side by side."""
    halves = value.view(heads, 2, -1, *value.shape[1:])
    return halves.transpose(1, 2).reshape(value.shape)
