"""Checkpoints by name: those with random weights are written when they are first asked for."""

from __future__ import annotations

import sys
from pathlib import Path

from shaped_model import SHAPES, write_shaped_model
from tiny_families.parts import CPU_20M
from tiny_family import FAMILIES

MODELS = Path(__file__).resolve().parents[2] / ".models"

SAME = "internvl-chat"
"""internvl in another format: it would be the same work."""

FAMILY_MODELS = {"llava-next": "cpu-20m"}
FAMILY_MODELS |= {name: f"{name}-20m" for name in FAMILIES if name != SAME}
"""Family -> a model of it for timing, its language model of 20 million parameters."""

RANDOM = (*SHAPES, *(name for name in FAMILY_MODELS.values() if name not in SHAPES))
"""Names of all that can be written."""


def written(model: str) -> Path | str:
    """The checkpoint; one of random weights is written if it is not there yet."""
    if model not in RANDOM or Path(model).exists():
        return model
    folder = MODELS / model
    if not folder.exists():
        print(f"writing {model} with random weights ...", file=sys.stderr)
        if model in SHAPES:
            write_shaped_model(folder, SHAPES[model])
        else:
            _write_family(folder, model.removesuffix("-20m"))
    return folder


def _write_family(folder: Path, family: str) -> None:
    """The folder appears when it is complete."""
    draft = folder.with_name(folder.name + ".part")
    draft.mkdir(parents=True, exist_ok=True)
    FAMILIES[family](draft, 0, CPU_20M)
    draft.replace(folder)
