"""Whether a CLIP's patches score high for the text that names them, measured on drawn pictures.

What a high cosine of patch and text means is a property of the checkpoint, which its configuration
says (`polarity_of`). Here it is measured: six pictures show three shapes each in colours of their
own, and the relevance to the name of each shape, such as "red circle", is to be higher on it than
elsewhere. The measure is the AUROC: the share of pairs of patches, one on the shape and one off it,
of which the first is the more relevant; 0.5 is chance.

Drawings are not photographs. A CLIP that knows none, as one with random weights, is not judged, and
a verdict on one that was trained on photographs is a reason to look, not a proof.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from .checkpoint import find
from .clip import ClipRelevance
from .windows import clip_windows

NUM_PICTURES = 6
_T_95 = 2.571
"""Student's t of a 95 % interval for so many pictures."""
MARGIN = 0.2
"""How far from chance the whole interval must be. Of 100 CLIPs with random weights none was so far
off; at a margin of 0.1 two were."""

_COLORS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (40, 80, 220)}
_COLORS |= {"yellow": (235, 210, 40)}
_SHAPES = {"circle": 60, "square": 4, "triangle": 3}
"""Name to the number of corners."""

# Of OpenAI's CLIP, for checkpoints without a preprocessor_config.json.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Polarity:
    """What was measured of a CLIP as it is configured."""

    configured: str
    """`positive` or `negative`: whether a high cosine is said to mean relevant."""
    auroc: float
    """Mean over pictures of the AUROC of relevance."""
    reach: float
    """Half the width of its 95 % interval."""

    @property
    def is_right(self) -> bool | None:
        """Whether the configuration is right; None where the pictures cannot tell."""
        if self.auroc - self.reach > 0.5 + MARGIN:
            return True
        return False if self.auroc + self.reach < 0.5 - MARGIN else None

    @property
    def opposite(self) -> str:
        """The polarity that is not configured."""
        return "negative" if self.configured == "positive" else "positive"

    def __str__(self) -> str:
        low, high = self.auroc - self.reach, self.auroc + self.reach
        measured = (
            f"AUROC {self.auroc:.2f} ({low:.2f} to {high:.2f}), {NUM_PICTURES} drawn pictures"
        )
        if self.is_right is None:
            return f"{self.configured} by its configuration; drawings cannot tell ({measured})"
        if self.is_right:
            return f"{self.configured}, as measured ({measured})"
        return (
            f"{self.configured} by its configuration, {self.opposite} as measured ({measured}), "
            "so that what is least relevant may be kept. If pictures of yours agree (vllm-script "
            f'explain), set "patch_polarity": "{self.opposite}" in the config.json of the CLIP'
        )


@torch.no_grad()
def measure_polarity(
    clip: ClipRelevance,
    clip_model: str,
    states_of: Callable[[torch.Tensor], torch.Tensor],
    image_size: int,
    patch_size: int,
) -> Polarity:
    """Measure whether the relevance that a CLIP gives is high where it should be.

    Pictures are encoded one by one, so that no more memory is needed than for one tile.

    Args:
        clip: the parts of the checkpoint that score.
        clip_model: the checkpoint, for its tokenizer and what pixels are normalised by.
        states_of: from pixels [1, 3, S, S] to the states [1, patches, H] of the vision tower, at
            the layer that the served model reads.
        image_size, patch_size: of the tower, in pixels.

    Raises:
        OSError, ValueError: the tokenizer, or what pixels are normalised by, cannot be read.
    """
    weight = clip.visual_projection.weight
    areas = []
    # All files are read before the tower runs, which tensor-parallel ranks run together.
    for normal, things in list(_normal_pictures(clip_model, image_size)):
        states = states_of(torch.from_numpy(normal).to(weight.device, weight.dtype))[0]
        of_things = []
        for windows, mask in things:
            relevance = clip(states, [windows]).cpu()
            of_things.append(_auroc(relevance, _covered(mask, patch_size)))
        areas.append(sum(of_things) / len(of_things))
    reach = _T_95 * float(np.std(areas, ddof=1)) / math.sqrt(NUM_PICTURES)
    configured = "positive" if clip.polarity > 0 else "negative"
    return Polarity(configured, float(np.mean(areas)), reach)


def _normal_pictures(
    clip_model: str, side: int
) -> Iterator[tuple[np.ndarray, list[tuple[Any, np.ndarray]]]]:
    """Yield pixels [1, 3, side, side] for the tower, and the windows and mask of each thing."""
    mean, std = _normalization(clip_model)
    for pixels, things in _pictures(side):
        normal = ((pixels / 255 - mean) / std).transpose(2, 0, 1)[None]
        of_things = [(tuple(clip_windows(clip_model, text)), mask) for text, mask in things.items()]
        yield normal, of_things


def _pictures(side: int) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield pictures [side, side, 3], float32 in [0, 255], and a mask [side, side] of each thing.

    The mask is 1 on the thing and 0 elsewhere; its key is the thing's name.
    """
    for seed in range(NUM_PICTURES):
        rng = np.random.default_rng(seed)
        grey = rng.uniform(60, 190) + rng.normal(0, 8, (side, side, 1))
        canvas = Image.fromarray(grey.clip(0, 255).astype(np.uint8).repeat(3, 2))
        things = {}
        colors, shapes = rng.permutation(list(_COLORS)), rng.permutation(list(_SHAPES))
        for quarter, color, shape in zip(rng.permutation(4), colors, shapes, strict=False):
            radius = side * rng.uniform(0.14, 0.21)
            free = side / 4 - radius
            middle = [side * (0.25 + 0.5 * axis) for axis in (quarter % 2, quarter // 2)]
            x, y = (place + rng.uniform(-free, free) for place in middle)
            circle, mask = (x, y, radius), Image.new("L", (side, side))
            ImageDraw.Draw(canvas).regular_polygon(circle, _SHAPES[shape], fill=_COLORS[color])
            ImageDraw.Draw(mask).regular_polygon(circle, _SHAPES[shape], fill=1)
            things[f"{color} {shape}"] = np.asarray(mask)
        yield np.asarray(canvas, dtype=np.float32), things


def _covered(mask: np.ndarray, patch_size: int) -> torch.Tensor:
    """The part of each patch [P] that a thing covers; what does not fill a patch is cut off."""
    count = len(mask) // patch_size
    used = mask[: count * patch_size, : count * patch_size]
    patches = used.reshape(count, patch_size, count, patch_size)
    return torch.from_numpy(patches.mean((1, 3)).ravel())


def _auroc(relevance: torch.Tensor, covered: torch.Tensor) -> float:
    """AUROC of the patches at least half on a thing, or the most, against those that are off it."""
    on, off = relevance[covered >= min(0.5, float(covered.max()))], relevance[covered == 0]
    ahead = on[:, None] - off[None]
    return float(((ahead > 0).float() + (ahead == 0).float() / 2).mean())


def _normalization(clip_model: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of pixels in [0, 1], one a channel."""
    path = find(clip_model, "preprocessor_config.json")
    settings = json.loads(path.read_text()) if path is not None else {}
    mean, std = settings.get("image_mean", _MEAN), settings.get("image_std", _STD)
    return np.array(mean, dtype=np.float32), np.array(std, dtype=np.float32)
