"""Items taken apart and put together are as if they had been processed together."""

import torch
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

from vllm_script.wire import own_configs, own_fields, put_together, take_apart


def configs_of(batch):
    """As Qwen's and InternVL's: pixels of all images in one tensor, a value for all of them."""
    sizes = batch.get("image_grid_thw", torch.empty(0, 3)).prod(-1)
    return {
        "pixel_values": MultiModalFieldConfig.flat_from_sizes("image", sizes),
        "image_grid_thw": MultiModalFieldConfig.batched("image", keep_on_cpu=True),
        "tiles": MultiModalFieldConfig.batched("image"),
        "times": MultiModalFieldConfig.batched("image"),
        "image_token_id": MultiModalFieldConfig.shared("image", len(sizes), keep_on_cpu=True),
    }


def processed(*grids):
    """What a processor makes of images of these grids."""
    grids = [torch.tensor(grid) for grid in grids]
    pixels = [torch.full((int(grid.prod()), 4), float(grid.sum())) for grid in grids]
    return BatchFeature(
        {
            "pixel_values": torch.cat(pixels),
            "image_grid_thw": torch.stack(grids),
            "tiles": [torch.ones(int(grid[1]), 2, 2) for grid in grids],
            "times": [[0.5] * int(grid[0]) for grid in grids],
            "image_token_id": torch.tensor(7),
        }
    )


def test_apart_and_together():
    grids = [(1, 2, 3), (1, 4, 2), (2, 2, 2)]
    alone = [processed(grid) for grid in grids]
    items = [take_apart(batch, configs_of(batch), "image") for batch in alone]
    batch = put_together(items, configs_of)
    together = processed(*grids)
    assert torch.equal(batch["pixel_values"], together["pixel_values"])
    assert torch.equal(batch["image_grid_thw"], together["image_grid_thw"])
    ours, stock = (
        MultiModalKwargsItems.from_hf_inputs(b, configs_of(b)) for b in (batch, together)
    )
    assert ours["image"] == stock["image"]


def test_our_fields_have_names_of_their_own_for_every_modality():
    image, video = (own_fields(b"plan", 3, b"key", m) for m in ("image", "video"))
    assert not image.keys() & video.keys()
    configs = own_configs(["image", "video"])
    assert configs.keys() == image.keys() | video.keys()
    assert bytes(image["script_plan"].tolist()) == b"plan"
    assert {configs[name].modality for name in video} == {"video"}
