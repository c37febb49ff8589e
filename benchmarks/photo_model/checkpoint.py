"""Folders of the model: written from its parts, read for training, written again with new weights.

They have the format of transformers' InternVLForConditionalGeneration, which is the model that is
trained, so that nothing is converted between training and serving.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from ..checkpoints import parts
from ..checkpoints.internvl import MEAN, STD, TEMPLATE
from .tower import Tower

NAMED_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
"""What transformers' InternVLProcessor asks a tokenizer for."""


def assemble(
    folder: Path, tower: Tower, language: Any, tokenizer: Any, patches_per_token: int, seed: int
) -> None:
    """Write a model of trained parts, whose connector is random.

    Args:
        language, tokenizer: as `read_language` returns them; both are given the tokens of images.
        patches_per_token: 1, or 4 for squares of four patches.
        seed: of the connector's weights.
    """
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    tokenizer.add_special_tokens({"additional_special_tokens": list(NAMED_TOKENS.values())})
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    grid = tower.config["image_size"][0] // tower.config["patch_size"][0]
    text = language.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "_name_or_path", "dtype"):
        text.pop(key, None)
    config = InternVLConfig(
        text_config=text,
        vision_config=tower.config,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=grid**2 // patches_per_token,
        downsample_ratio=patches_per_token**-0.5,
        tie_word_embeddings=language.config.tie_word_embeddings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = InternVLForConditionalGeneration(config)
        _initialise(model.model.multi_modal_projector, language.get_input_embeddings().weight)
    model.model.vision_tower.load_state_dict(tower.weights)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder, tokenizer)
    side = {"height": tower.config["image_size"][0], "width": tower.config["image_size"][1]}
    parts.write_processors(
        folder,
        "InternVLProcessor",
        {"image_mean": MEAN, "image_std": STD, "size": side},
        {
            "image_processor_type": "GotOcr2ImageProcessor",
            "crop_to_patches": True,
            "min_patches": 1,
            "max_patches": 1,  # a picture is one tile, squeezed into a square
        },
        videos="InternVLVideoProcessor",
        processor={"image_seq_length": config.image_seq_length},
    )
    parts.write_json(folder / "generation_config.json", {"eos_token_id": tokenizer.eos_token_id})
    write_weights(folder, model)


def read(folder: Path, attention: str = "sdpa") -> tuple[Any, Any]:
    """Return the model in float32 and its processor."""
    from transformers import AutoProcessor, InternVLForConditionalGeneration

    model = InternVLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )
    return model, AutoProcessor.from_pretrained(folder)


def export(model: Any, start: Path, folder: Path) -> Path:
    """Write a trained model in bfloat16, with all else of the folder that it started from."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in start.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, folder)
    write_weights(folder, model)
    return folder


def write_weights(folder: Path, model: Any) -> None:
    """Write configuration and weights in bfloat16; what is tied is written once."""
    parts.write_config(folder, model, dtype="bfloat16")
    weights = {name: value.detach().cpu() for name, value in model.named_parameters()}
    parts.save_weights(folder, {name: value.bfloat16() for name, value in weights.items()})


def _initialise(connector: Any, words: torch.Tensor) -> None:
    """Give the connector weights whose outputs are as long as the embeddings of words."""
    for linear, gain in ((connector.linear_1, 1.0), (connector.linear_2, 1.7)):
        torch.nn.init.normal_(linear.weight, std=gain * linear.in_features**-0.5)
        torch.nn.init.zeros_(linear.bias)
    with torch.no_grad():
        connector.linear_2.weight.mul_(words.std())


def _write_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Write tokenizer.json and a configuration of the class that both transformers 4 and 5 have."""
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    special = ("bos_token", "eos_token", "pad_token", "unk_token")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": parts.CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
        "extra_special_tokens": NAMED_TOKENS,
        **{name: value for name in special if (value := getattr(tokenizer, name)) is not None},
    }
    parts.write_json(folder / "tokenizer_config.json", config)
