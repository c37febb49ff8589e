"""Gemma 4: images of any shape and the frames of videos, as vLLM and transformers lay them out.

vLLM's attention takes the runs in which rows see each other from an item's placeholders; no engine
is needed here.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config

from vllm_script.budget import even_shares
from vllm_script.families.gemma4 import Gemma4Family

SIZES = [(168, 168), (300, 100), (100, 300), (640, 480), (33, 1000), (1000, 33), (20, 20)]


@pytest.fixture(scope="module")
def renderer(checkpoint):
    config = EngineArgs(
        str(checkpoint("gemma4")),
        additional_config={"script": {"relevance": "none"}},
        max_model_len=2048,
        limit_mm_per_prompt={"image": 1, "video": 1},
    ).create_engine_config()
    return renderer_from_config(config)


def render(renderer, modality, item, **arguments):
    """What vLLM's engine gets of a prompt with one item: its span and its fields."""
    prompt = {
        "prompt": f"<bos><|{modality}|>What is it?",
        "multi_modal_data": {modality: [item]},
        "mm_processor_kwargs": arguments,
    }
    (rendered,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
    (span,), (fields,) = rendered["mm_placeholders"][modality], rendered["mm_kwargs"][modality]
    return span, {name: element.data for name, element in fields.items()}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("most", [70, 140, 280])
def test_layouts_are_what_transformers_makes(renderer, size, most):
    """The rows of an image, and their place on it: the columns are those of its patches."""
    processor = renderer.get_mm_processor()
    width, height = size
    arguments = {"max_soft_tokens": most}
    whole = {"script": {"keep_ratio": 1.0}}
    span, fields = render(renderer, "image", Image.new("RGB", size), **arguments, **whole)
    layout = processor.family.image_layout(processor.info, height, width, arguments)
    hf_config = processor.info.get_hf_config()
    processed = processor.family.item_layout(hf_config, "image", fields)
    assert span.get_num_embeds() == layout.num_placeholders == processed.num_placeholders <= most
    columns, rows = (fields["pixel_position_ids"].amax(0) + 1) // 3
    assert (layout.columns, layout.num_placeholders) == (columns, rows * columns)
    (boxes,) = processor.family.views(hf_config, layout, height, width).values()
    assert len(boxes) == layout.num_placeholders
    assert boxes[-1, 2:].tolist() == pytest.approx([width, height], rel=1e-5)


@pytest.mark.parametrize("keep_ratio", [0.01, 0.3, 1.0])
def test_every_frame_is_a_run_and_keeps_the_same_part(renderer, keep_ratio):
    frames = np.zeros((5, 84, 140, 3), dtype=np.uint8)
    about = dict(fps=2.0, duration=2.5, total_num_frames=5, frames_indices=list(range(5)))
    video = frames, about | {"video_backend": "opencv", "do_sample_frames": False}
    span, fields = render(renderer, "video", video, script={"keep_ratio": keep_ratio})
    hf_config = renderer.get_mm_processor().info.get_hf_config()
    layout = Gemma4Family().item_layout(hf_config, "video", fields)
    assert layout.num_frames == 5 and layout.even
    kept = max(5, int(keep_ratio * layout.num_placeholders + 0.5))
    runs = [last + 1 - first for first, last in span.extract_embeds_range()]
    assert runs == even_shares(kept, 5)


def test_example():
    """Of 280 tokens at most, 12 rows of 22."""
    vision = SimpleNamespace(patch_size=16, pooling_kernel_size=3, default_output_length=280)
    name, layout = Gemma4Family().example(SimpleNamespace(vision_config=vision))
    assert (name, layout.num_placeholders, layout.columns) == ("1280x720", 12 * 22, 22)
