"""What a vision tower computes when patches are dropped inside it, modelled from published shapes.

    python benchmarks/thinning/flops.py

Products of matrices alone, two operations for a multiplication and an addition; nothing is run.
"""

from __future__ import annotations

from typing import NamedTuple

from vllm_script.benchmarks.common import markdown, parser_of
from vllm_script.benchmarks.thinning.hook import DEPTHS, KEEPS, Cut


class Shape(NamedTuple):
    """A tower and one picture in it."""

    layers: int
    """Layers that are run."""
    width: int
    """Values of a state."""
    inner: int
    """Values between the matrices of a layer's MLP."""
    matrices: int
    """Matrices of that MLP: two, or three of a gated one."""
    pixels: int
    """Values of a patch before the tower."""
    patches: int
    """Patches of a sequence."""
    sequences: int = 1
    """Tiles, each of which is a sequence of its own."""
    class_tokens: int = 0
    """States before the patches of a sequence."""
    window: int | None = None
    """Patches that a patch sees in a layer of windows; None: no layer has windows."""
    full: int = 0
    """How many of the layers see all patches, where the others have windows."""
    projected: int = 0
    """Multiplications of the projector for a patch."""


LLAVA_NEXT_7B = Shape(
    layers=23,  # of 24, the last but one is read
    width=1024,
    inner=4096,
    matrices=2,
    pixels=3 * 14 * 14,
    patches=24 * 24,
    sequences=5,
    class_tokens=1,
    projected=1024 * 4096 + 4096 * 4096,
)
"""CLIP ViT-L/14-336 and LLaVA-NeXT's projector, a picture of 672x672 pixels."""

QWEN2_5_VL_7B = Shape(
    layers=32,
    width=1280,
    inner=3420,
    matrices=3,
    pixels=2 * 3 * 14 * 14,
    patches=72 * 72,
    window=8 * 8,
    full=4,
    projected=(5120 * 5120 + 5120 * 3584) // 4,
)
"""Qwen2.5-VL-7B's tower and merger, a picture of 1008x1008 pixels."""

PUBLISHED = {
    "LLaVA-NeXT-7B, 672x672": LLAVA_NEXT_7B,
    "Qwen2.5-VL-7B, 1008x1008": QWEN2_5_VL_7B,
}


def flops(shape: Shape, cut: Cut | None = None) -> int:
    """Operations of a tower for one picture, with its projector.

    Of a window a cut leaves the same share as of all patches. Layers that see all patches are
    spread evenly, the last one among them.
    """
    embedding = 2 * shape.patches * shape.pixels * shape.width
    total, left = embedding, shape.patches
    for layer in range(shape.layers):
        if cut is not None and layer == cut.after:
            left = cut.count(shape.patches)
        states, seen = shape.class_tokens + left, shape.class_tokens + left
        if shape.window is not None and (layer + 1) * shape.full % shape.layers:
            seen = shape.window * left // shape.patches
        linear = 4 * shape.width**2 + shape.matrices * shape.width * shape.inner
        total += 2 * states * (linear + 2 * seen * shape.width)
    return shape.sequences * (total + 2 * left * shape.projected)


def main() -> None:
    parser_of(__doc__).parse_args()
    print("Modelled operations of the tower and projector, as a share of the whole tower's.")
    for name, shape in PUBLISHED.items():
        whole = flops(shape)
        afters = [round(share * shape.layers) for share in DEPTHS]
        rows = [
            [f"{keep:g}", *(f"{flops(shape, Cut(after, keep)) / whole:.3f}" for after in afters)]
            for keep in KEEPS
        ]
        columns = [f"after layer {after} of {shape.layers}" for after in afters]
        print(f"\n{name}: {whole / 1e12:.2f} TFLOP\n\n{markdown(['keep', *columns], rows)}")


if __name__ == "__main__":
    main()
