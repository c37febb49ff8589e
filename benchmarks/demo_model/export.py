"""Write the models as Hugging Face folders that vLLM and transformers 4 and 5 load.

transformers 5 would write other names and files than published LLaVA-NeXT checkpoints have: no
`vision_model.` in the tower, one processor file, a tokenizer class that version 4 does not know. So
everything is written here by hand.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import PretrainedConfig

from ..checkpoints.parts import published_name
from ..scenes.tiling import PATCH, image_processor_settings
from ..scenes.words import IMAGE
from .model import FEATURE_LAYER, MAX_CLIP_TEXT, MAX_PROMPT, ROPE_THETA, Demo
from .text import BOS, BOS_ID, CHAT_TEMPLATE, CLIP_BOS, CLIP_EOS, EOS, EOS_ID, PAD, PAD_ID, for_clip

UNSAID = (
    "_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label",
    "is_encoder_decoder", "label2id", "output_attentions", "output_hidden_states", "problem_type",
    "return_dict", "torch_dtype", "transformers_version",
)  # fmt: skip
"""Entries of transformers' configurations that say nothing about these models."""
PROCESSOR = "LlavaNextProcessor"


def export(demo: Demo, tokenizer: Tokenizer, folder: Path) -> Path:
    """Write LLaVA-NeXT to `folder` and its CLIP to `folder`/clip, in bfloat16; return `folder`."""
    _write_llava(demo, tokenizer, folder)
    _write_clip(demo, for_clip(tokenizer), folder / "clip")
    return folder


def _write_llava(demo: Demo, tokenizer: Tokenizer, folder: Path) -> None:
    config = _config(demo.llava.config, "LlavaNextForConditionalGeneration")
    config["text_config"] |= {"rope_theta": ROPE_THETA, "architectures": ["LlamaForCausalLM"]}
    weights = {published_name(name): value for name, value in demo.llava.named_parameters()}
    _write_model(folder, config, weights)
    _write_tokenizer(folder, tokenizer, BOS, EOS, MAX_PROMPT, [IMAGE], CHAT_TEMPLATE)
    _write_json(
        folder / "preprocessor_config.json",
        image_processor_settings()
        | {"image_processor_type": "LlavaNextImageProcessor", "processor_class": PROCESSOR},
    )
    _write_json(
        folder / "processor_config.json",
        {
            "processor_class": PROCESSOR,
            "patch_size": PATCH,
            "vision_feature_select_strategy": "default",
            "image_token": IMAGE,
            "num_additional_image_tokens": 1,
        },
    )
    _write_json(
        folder / "generation_config.json",
        {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID},
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _write_clip(demo: Demo, tokenizer: Tokenizer, folder: Path) -> None:
    config = _config(demo.clip.config, "CLIPModel")
    # What the `clip` relevance of vllm_script needs to know: which states the patches are compared
    # from, and that a high similarity means relevant.
    config |= {"patch_feature_layer": FEATURE_LAYER, "patch_polarity": "positive"}
    _write_model(folder, config, dict(demo.clip.named_parameters()))
    _write_tokenizer(folder, tokenizer, CLIP_BOS, CLIP_EOS, MAX_CLIP_TEXT)
    settings = image_processor_settings()
    del settings["image_grid_pinpoints"], settings["do_pad"]
    _write_json(
        folder / "preprocessor_config.json",
        settings
        | {"image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor"},
    )


def _config(config: PretrainedConfig, architecture: str) -> dict[str, Any]:
    """Return what config.json holds."""
    table = config.to_dict()
    for part in (table, *(value for value in table.values() if isinstance(value, dict))):
        for key in UNSAID:
            part.pop(key, None)
    return table | {"architectures": [architecture], "torch_dtype": "bfloat16"}


def _write_model(folder: Path, config: dict[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    half = {name: value.detach().cpu().bfloat16().contiguous() for name, value in weights.items()}
    path = folder / "model.safetensors"
    save_file(half, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _write_tokenizer(
    folder: Path,
    tokenizer: Tokenizer,
    bos: str,
    eos: str,
    longest: int,
    extra: list[str] | None = None,
    chat_template: str | None = None,
) -> None:
    """Write tokenizer.json and a configuration of the class that both transformers 4 and 5 have."""
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": bos, "eos_token": eos, "pad_token": PAD}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if extra is not None:
        config["additional_special_tokens"] = extra
    if chat_template is not None:
        config |= {"chat_template": chat_template, "processor_class": PROCESSOR}
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", special)


def _write_json(path: Path, table: dict[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n")
