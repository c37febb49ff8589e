"""Where relevance to an asked-for object comes from: a text tower, or the truth with noise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from vllm_script.kernels import normalize_relevance
from vllm_script.relevance.checkpoint import read
from vllm_script.relevance.clip import ClipRelevance
from vllm_script.relevance.windows import clip_windows

from .text_map import Sentences, TextMap

TextRelevance = Callable[[torch.Tensor, str], torch.Tensor]
"""Tokens [N, D] and the name of a category -> relevance [N], high = keep."""

TEXT, WRONG_SIGN, MASK = "text", "text, wrong sign", "mask"
NOISES = (1.0, 2.0)
"""Standard deviations of the noise, where inside and outside of the mask differ by 1."""


def noisy(noise: float) -> str:
    """Name of the mask with noise."""
    return f"{MASK} + noise {noise:g}"


def load_text(text: str | None, tower: str, layer: int | None) -> TextRelevance | None:
    """The relevance of a text tower.

    Args:
        text: a CLIP checkpoint, or a file of train_text_map.py; None: the tower itself where it is
            a CLIP, else no text.
        tower, layer: as the photographs' tokens come from.

    Raises:
        ValueError: it cannot be loaded, or is of another tower.
    """
    if text is None:
        return _clip(tower) if _is_clip(tower) else None
    if not Path(text).is_file():
        return _clip(text)
    learned = TextMap.load(Path(text))
    if (was := (learned.about["tower"], learned.about["layer"])) != (tower, str(layer)):
        raise ValueError(f"--text {text} is of the tower {was[0]}, --layer {was[1]}")
    sentences = Sentences(learned.about["sentences"])
    known: dict[str, torch.Tensor] = {}

    def relevance(tokens: torch.Tensor, category: str) -> torch.Tensor:
        if category not in known:
            known[category] = sentences.embed([f"a photo of a {category}.", category])
        return learned.relevance(tokens, known[category])

    return relevance


def _is_clip(name: str) -> bool:
    from transformers import AutoConfig

    return ":" not in name and AutoConfig.from_pretrained(name).model_type == "clip"


def _clip(name: str) -> TextRelevance:
    """Relevance as the plugin has it: with the polarity that the checkpoint is known for."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--text {name} is no file and no CLIP checkpoint: {reason}") from None
    if config.model_type != "clip":
        raise ValueError(f"--text {name} is a {config.model_type}, not a CLIP checkpoint")
    clip = ClipRelevance(config, read(name).weights, torch.float32, "cpu")

    @torch.inference_mode()
    def relevance(tokens: torch.Tensor, category: str) -> torch.Tensor:
        if tokens.shape[1] != clip.visual_projection.in_features:
            raise ValueError(
                f"--text {name} has {clip.visual_projection.in_features} values a patch, and the "
                f"tower {tokens.shape[1]}; name the CLIP checkpoint that the tower came from"
            )
        windows = clip_windows(name, f"a photo of a {category}.")
        scored: torch.Tensor = clip(tokens, [windows])
        return scored

    return relevance


def relevances(
    tokens: torch.Tensor,
    category: str,
    inside: torch.Tensor,
    text: TextRelevance | None,
    seed: int,
) -> dict[str, torch.Tensor]:
    """Relevance [N] of every source to one asked-for object, by the source's name.

    Args:
        tokens: [N, D] of the photograph.
        inside: [N] bool, the tokens of the object.
        seed: of the noise.
    """
    found = {}
    if text is not None:
        found[TEXT] = text(tokens, category)
        found[WRONG_SIGN] = normalize_relevance(-found[TEXT])
    found[MASK] = normalize_relevance(inside.float())
    generator = torch.Generator().manual_seed(seed)
    for noise in NOISES:
        scores = inside + noise * torch.randn(len(inside), generator=generator)
        found[noisy(noise)] = normalize_relevance(scores)
    return found
