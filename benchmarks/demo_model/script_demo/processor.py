"""Settings of the image processor, equal to tiling.py."""

from typing import Any

from .tiling import PINPOINTS, TILE

MEAN = STD = 0.5


def image_processor_settings() -> dict[str, Any]:
    """Return the settings that LLaVA-NeXT's image processors take."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": TILE},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": TILE, "width": TILE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [MEAN] * 3,
        "image_std": [STD] * 3,
        "do_pad": True,
        "image_grid_pinpoints": [list(pinpoint) for pinpoint in PINPOINTS],
    }
