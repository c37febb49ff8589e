"""Decide where relevance comes from, once, when the engine is configured.

`clip` needs the CLIP checkpoint that the model's vision tower came from. It is looked for where the
operator says, in a folder `clip` of the model, and, for towers of a well-known shape, on the hub.
Without one `auto` is `none`: README.md beside plugin.py has the evidence, family by family.
"""

from __future__ import annotations

import pathlib
from dataclasses import replace
from typing import Any

from ..config import ScriptConfig

# Shape of a vision tower -> the checkpoint it is known to come from.
_SHAPE = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("image_size", "patch_size"),
)
# Models in which a visual token is a patch of the tower, rather than a mixture of several.
_TOKENS_ARE_PATCHES = ("llava", "llava_next")

_KNOWN: dict[tuple[int, ...], str] = {
    (1024, 4096, 24, 16, 336, 14): "openai/clip-vit-large-patch14-336"
}


def resolve(config: ScriptConfig, hf_config: Any, model: str) -> ScriptConfig:
    """Settings with `relevance` decided, and `clip_model` set exactly where CLIP is to be loaded.

    Args:
        config: what the operator asked for.
        hf_config: configuration of the model that is served.
        model: its folder or repository.

    Raises:
        ValueError: `clip` was asked for and cannot be had, or does not fit the tower.
    """
    if config.relevance not in ("auto", "clip") and config.clip_model is None:
        return config
    clip_model = config.clip_model or _find(hf_config, model)
    if clip_model is None:
        if config.relevance == "clip":
            raise ValueError(
                f"relevance clip needs the CLIP checkpoint that the vision tower of {model} came "
                "from; name it with --script-clip-model, or use --script-relevance embedding"
            )
        return replace(config, relevance="none")
    _check_fit(clip_model, hf_config)
    relevance = "clip" if config.relevance == "auto" else config.relevance
    return replace(config, relevance=relevance, clip_model=clip_model)


def _find(hf_config: Any, model: str) -> str | None:
    if not _has_clip_tower(hf_config):
        return None
    beside = pathlib.Path(model) / "clip"
    if (beside / "config.json").is_file():
        return str(beside.resolve())
    known = _KNOWN.get(_shape(hf_config.vision_config))
    return known if known is not None and _is_available(known) else None


def _has_clip_tower(hf_config: Any) -> bool:
    """Whether CLIP could score the model's visual tokens one by one."""
    one_layer = isinstance(getattr(hf_config, "vision_feature_layer", None), int)
    is_clip = hf_config.vision_config.model_type == "clip_vision_model"
    return is_clip and one_layer and hf_config.model_type in _TOKENS_ARE_PATCHES


def _is_available(repository: str) -> bool:
    """Whether its configuration is in the local cache, or else on a hub that answers."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(repository, "config.json")
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return False
    return True


def _check_fit(clip_model: str, hf_config: Any) -> None:
    from transformers import AutoConfig

    try:
        clip_config = AutoConfig.from_pretrained(clip_model)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the CLIP checkpoint {clip_model} cannot be read: {reason}") from None
    if clip_config.model_type != "clip" or not _has_clip_tower(hf_config):
        raise ValueError(
            f"relevance clip needs a CLIP checkpoint and a CLIP tower read at one layer, got a "
            f"{clip_config.model_type} checkpoint and a {hf_config.vision_config.model_type} tower"
        )
    ours, theirs = _shape(hf_config.vision_config), _shape(clip_config.vision_config)
    if ours != theirs:
        differing = [
            f"{name} {theirs[i]} instead of {ours[i]}"
            for i, name in enumerate(_SHAPE)
            if ours[i] != theirs[i]
        ]
        raise ValueError(
            f"the CLIP checkpoint {clip_model} does not fit the vision tower: "
            f"{', '.join(differing)}"
        )


def _shape(vision_config: Any) -> tuple[int, ...]:
    return tuple(getattr(vision_config, name) for name in _SHAPE)
