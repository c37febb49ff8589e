"""Gemma 3: pan-and-scan crops are runs of their own, and vLLM's attention is told of each of them.

Inside a run the rows that stay see each other in both directions on a GPU. vLLM takes the runs from
an item's placeholders, and does not cut an item in two if it is told to; no engine is needed here.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Gemma3Config, Gemma3ImageProcessor
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config

from vllm_script.budget import even_shares
from vllm_script.families.boxes import strip_boxes
from vllm_script.families.gemma3 import Gemma3Family

SCAN = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 64}
TILE_TOKENS = 36


@pytest.fixture(scope="module")
def render(checkpoint):
    """render(settings of the request, processor's arguments, images) -> what vLLM's engine gets."""
    config = EngineArgs(
        str(checkpoint("gemma3")),
        additional_config={"script": {"relevance": "none"}},
        max_model_len=1024,
        limit_mm_per_prompt={"image": 2},
    ).create_engine_config()
    renderer = renderer_from_config(config)

    def rendered(script, arguments, *images):
        prompt = {
            "prompt": "<bos>" + "<start_of_image>What is it? " * len(images),
            "multi_modal_data": {"image": list(images)},
            "mm_processor_kwargs": {**arguments, "script": script},
        }
        (result,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
        return result

    return rendered


def runs_of(rendered):
    """Lengths of the runs of each item, which vLLM's model runner makes its ranges of."""
    spans = rendered["mm_placeholders"]["image"]
    return [[last + 1 - first for first, last in span.extract_embeds_range()] for span in spans]


@pytest.mark.parametrize(
    ("size", "num_crops"), [((168, 168), 0), ((300, 100), 3), ((100, 160), 2), ((640, 100), 4)]
)
@pytest.mark.parametrize("keep_ratio", [0.01, 0.4, 1.0])
def test_crops_share_what_is_kept(render, size, num_crops, keep_ratio):
    rendered = render({"keep_ratio": keep_ratio}, SCAN, Image.new("RGB", size))
    (runs,) = runs_of(rendered)
    total = (1 + num_crops) * TILE_TOKENS
    kept = max(1 + num_crops, int(keep_ratio * total + 0.5))
    assert runs == even_shares(kept, 1 + num_crops)
    (item,) = rendered["mm_kwargs"]["image"]
    layout = Gemma3Family().item_layout(
        Gemma3Config(mm_tokens_per_image=TILE_TOKENS),
        "image",
        {name: element.data for name, element in item.items()},
    )
    assert (layout.num_placeholders, layout.num_frames) == (total, 1 + num_crops)
    assert len(item["pixel_values"].data) == 1 + num_crops


def test_the_text_between_crops_stays(render):
    """So do the marks and the newlines around each; placeholders alone are fewer."""
    images = Image.new("RGB", (300, 100)), Image.new("RGB", (168, 168))
    pruned, whole = (render({"keep_ratio": ratio}, SCAN, *images) for ratio in (0.3, 1.0))
    texts = []
    for rendered in pruned, whole:
        token_ids = np.array(rendered["prompt_token_ids"])
        is_row = np.zeros(len(token_ids), dtype=bool)
        for span in rendered["mm_placeholders"]["image"]:
            for first, last in span.extract_embeds_range():
                is_row[first : last + 1] = True
        assert len(set(token_ids[is_row])) == 1
        texts.append(token_ids[~is_row].tolist())
    assert texts[0] == texts[1]


def test_example():
    """256 tokens, however large the image is."""
    name, layout = Gemma3Family().example(Gemma3Config(vision_config={"image_size": 896}))
    assert (name, layout.num_placeholders, layout.num_frames) == ("896x896", 256, 1)


@pytest.mark.parametrize("size", [(300, 100), (301, 100), (100, 250), (431, 101)])
def test_boxes_are_the_processor_s_crops(size):
    """Every pixel knows its place; a crop's first and last pixels are the corners of its boxes."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x % 256, y % 256, x // 256], -1).astype(np.uint8)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    crops = Gemma3ImageProcessor().pan_and_scan_batched(images, 50, 4, 1.2)
    boxes = strip_boxes(3, len(crops), height, width).view(len(crops), -1, 4)
    for (crop,), own in zip(crops, boxes, strict=True):
        corners = (crop[:, 0, 0].tolist(), crop[:, -1, -1].tolist())
        (left, top), (right, bottom) = ((red + 256 * blue, green) for red, green, blue in corners)
        assert own[0, :2].tolist() == [left, top]
        assert own[-1, 2:].tolist() == pytest.approx([right + 1, bottom + 1], abs=1e-4)
