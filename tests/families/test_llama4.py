"""Llama 4: tiles with marks between them, all of which keep the same part."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Llama4Config, Llama4ImageProcessor
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.renderers import renderer_from_config

from vllm_script.budget import even_shares
from vllm_script.families.llama4 import Llama4Family

TILE, TILE_TOKENS = 84, 9


@pytest.fixture(scope="module")
def renderer(checkpoint):
    args = EngineArgs(
        str(checkpoint("llama4")),
        additional_config={"script": {"relevance": "none"}},
        max_model_len=1024,
    )
    return renderer_from_config(args.create_engine_config())


def rendered(renderer, size, arguments=None, **script):
    prompt = {
        "prompt": "Look: <|image|>?",
        "multi_modal_data": {"image": Image.new("RGB", size)},
        "mm_processor_kwargs": {**(arguments or {}), "script": script},
    }
    (result,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
    return result


def runs_of(result):
    (span,) = result["mm_placeholders"]["image"]
    return [last + 1 - first for first, last in span.extract_embeds_range()]


def test_example():
    """Four by three tiles of 336 pixels hold 1280x720, and the whole of it is one more."""
    name, layout = Llama4Family().example(Llama4Config(vision_config={"image_size": 336}))
    assert (name, layout.num_placeholders) == ("1280x720", 13 * 144)
    assert (layout.num_frames, layout.columns) == (13, 4 * 12)


@pytest.mark.parametrize(
    ("size", "num_tiles"),
    [
        ((28, 28), 1),
        ((84, 84), 1),
        ((85, 84), 3),
        ((168, 168), 5),
        ((90, 400), 11),
        ((640, 480), 13),
    ],
)
@pytest.mark.parametrize("keep_ratio", [0.01, 0.4, 1.0])
def test_tiles_share_what_is_kept(renderer, size, num_tiles, keep_ratio):
    result = rendered(renderer, size, keep_ratio=keep_ratio)
    total = num_tiles * TILE_TOKENS
    assert runs_of(result) == even_shares(max(num_tiles, int(keep_ratio * total + 0.5)), num_tiles)
    (item,) = result["mm_kwargs"]["image"]
    fields = {name: element.data for name, element in item.items()}
    assert len(fields["pixel_values"]) == num_tiles
    processor = renderer.get_mm_processor()
    by_size = processor.family.image_layout(processor.info, size[1], size[0], {})
    by_pixels = processor.family.item_layout(processor.info.get_hf_config(), "image", fields)
    assert (by_size.counts, by_size.columns) == (by_pixels.counts, by_pixels.columns)


def test_marks_between_tiles_stay(renderer):
    texts = []
    for keep_ratio in (0.3, 1.0):
        ids = rendered(renderer, (168, 100), keep_ratio=keep_ratio)["prompt_token_ids"]
        names = renderer.get_tokenizer().convert_ids_to_tokens(ids)
        texts.append([name for name in names if name != "<|patch|>"])
    assert texts[0] == texts[1]
    assert texts[0].count("<|tile_x_separator|>") == texts[0].count("<|tile_y_separator|>") == 2


def test_other_tiles_than_the_size_tells_are_refused(renderer):
    """vLLM counts placeholders by the server's settings, whatever a request asks for."""
    with pytest.raises(VLLMValidationError, match="mm_processor_kwargs"):
        rendered(renderer, (640, 480), {"max_patches": 4}, keep_ratio=0.4)


@pytest.mark.parametrize(("height", "width"), [(40, 40), (168, 168), (100, 300), (480, 640)])
def test_boxes_are_the_processor_s_tiles(height, width):
    """A ramp of colours says where on the image a patch is, and padding is black."""
    x = np.linspace(20, 255, width)[None, :].repeat(height, 0)
    y = np.linspace(20, 255, height)[:, None].repeat(width, 1)
    image = Image.fromarray(np.stack([x, y, np.full_like(x, 255)], -1).round().astype(np.uint8))
    processor = Llama4ImageProcessor(size={"height": TILE, "width": TILE})
    made = processor(image, do_normalize=False, do_rescale=False, return_tensors="pt")
    tiles = made["pixel_values"].float()
    config = Llama4Config(vision_config={"image_size": TILE, "patch_size": 14})
    fields = {"pixel_values": tiles, "aspect_ratios": made["aspect_ratios"]}
    layout = Llama4Family().item_layout(config, "image", fields)
    boxes = torch.cat([*Llama4Family().views(config, layout, height, width).values()])
    blocks = tiles.unfold(2, 28, 28).unfold(3, 28, 28).mean((-2, -1))
    colors = blocks.permute(0, 2, 3, 1).flatten(0, 2)
    assert len(boxes) == len(colors) == layout.num_patches
    full = colors[:, 2] > 254
    assert full.sum() > len(colors) / 4
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor([width, height])
    assert torch.allclose(middle[full], (colors[full, :2].double() - 20) / 235, atol=0.03)
    empty = colors[:, 2] < 1
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides[empty].amin(1) < 1).all() and (sides[full] > 0).all()
