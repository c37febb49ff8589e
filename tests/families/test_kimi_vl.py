"""Kimi-VL: images of any shape, scaled down to a number of patches, filled up to whole tokens."""

import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config
from vllm.transformers_utils.configs.kimi_vl import KimiVLConfig

from vllm_script.families.boxes import ONE_TILE
from vllm_script.families.kimi_vl import KimiVLFamily

SIZES = [(1, 1), (28, 29), (84, 140), (300, 20), (447, 449), (449, 449), (900, 500), (2000, 90)]


@pytest.fixture(scope="module")
def renderer(checkpoint):
    args = EngineArgs(
        str(checkpoint("kimi-vl")),
        additional_config={"script": {"relevance": "none"}},
        trust_remote_code=True,  # for its processor
        max_model_len=1024,
    )
    return renderer_from_config(args.create_engine_config())


def test_example():
    name, layout = KimiVLFamily().example(KimiVLConfig())
    assert (name, layout.num_placeholders, layout.columns) == ("640x480", 18 * 23, 23)


@pytest.mark.parametrize("size", SIZES)
def test_counts_are_those_of_vllm_and_of_the_pixels(renderer, size):
    processor = renderer.get_mm_processor()
    layout = processor.family.image_layout(processor.info, size[1], size[0], {})
    stock = processor.info.get_num_image_tokens(image_width=size[0], image_height=size[1])
    assert layout.num_placeholders == stock <= 256 + 33  # of the limit, and what fills it up
    text = processor.family.placeholder(processor.info, "image")
    prompt = {"prompt": f"Look: {text}?", "multi_modal_data": {"image": Image.new("RGB", size)}}
    (result,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
    (item,) = result["mm_kwargs"]["image"]
    fields = {name: element.data for name, element in item.items()}
    found = processor.family.item_layout(processor.info.get_hf_config(), "image", fields)
    assert (found.num_patches, found.columns) == (layout.num_patches, layout.columns)


@pytest.mark.parametrize(
    ("size", "grid", "last"),
    [
        ((84, 56), (2, 3), [56, 28, 84, 56]),
        ((80, 50), (2, 3), [56, 28, 80, 50]),  # filled up
        ((1680, 1120), (10, 15), [1568, 1008, 1680, 1120]),  # scaled down to 420x280
    ],
)
def test_boxes_end_with_the_image(size, grid, last):
    rows, columns = grid
    family, config = KimiVLFamily(), KimiVLConfig()
    layout = family.item_layout(config, "image", {"image_grid_hws": [2 * rows, 2 * columns]})
    boxes = family.views(config, layout, size[1], size[0])[ONE_TILE]
    assert boxes.shape == (rows * columns, 4)
    assert boxes[0, :2].tolist() == [0, 0]
    assert boxes[-1].tolist() == last
