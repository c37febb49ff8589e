"""Which items of a request are cached, under which key; and items taken apart and put together."""

import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import ImageProcessorItems

from vllm_script.config import ScriptConfig
from vllm_script.frontend.items import (
    CARRIED_KEY,
    Carried,
    planned_items,
    put_together,
    take_apart,
    take_carried,
)
from vllm_script.plan import image_key, make_plan

PLAN = make_plan(ScriptConfig(relevance="none"), ())
OTHER_PLAN = make_plan(ScriptConfig(keep_ratio=0.5, relevance="none"), ())


def images_of(*sizes):
    return ImageProcessorItems([size and Image.new("RGB", size) for size in sizes])


def keys_of(plans, hashes, images, caching=True):
    return [i.cache_key for i in planned_items(plans, hashes, images, caching=caching)]


def test_the_key_is_the_images_whatever_its_plan():
    images = images_of((30, 20), (30, 20), (30, 20))
    one, same, other = keys_of([PLAN, OTHER_PLAN, PLAN], ["h", "h", "g"], images)
    assert one == same == image_key("h", 20, 30) != other
    assert len(one) == 16


def test_pictures_of_other_sizes_under_one_uuid():
    keys = keys_of([PLAN] * 3, ["uuid"] * 3, images_of((30, 20), (20, 30), (31, 20)))
    assert len(set(keys)) == 3


def test_what_is_not_cached():
    """An image left whole, one that is a reference to what was sent before, any where it is off."""
    images = images_of((30, 20), None)
    assert keys_of([None, PLAN], ["h", "uuid"], images) == [b"", b""]
    assert keys_of([PLAN, PLAN], ["h", "uuid"], images, caching=False) == [b"", b""]


def test_what_is_carried_is_taken_out_of_the_arguments():
    items = {"image": planned_items([PLAN], ["h"], images_of((1, 1)), caching=True)}
    carried = Carried(items, {"image": ["h"]})
    assert take_carried({CARRIED_KEY: carried, "do_resize": False}) == (
        carried,
        {"do_resize": False},
    )
    assert take_carried({"do_resize": False}) == (Carried(), {"do_resize": False})


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
    """Items taken apart and put together are as if they had been processed together."""
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
