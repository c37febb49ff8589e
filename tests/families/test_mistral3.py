"""Mistral 3's own: rows of patches with breaks between them, of which a pruned image has none."""

import numpy as np
import pytest
from PIL import Image
from transformers import Mistral3Config
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.renderers import renderer_from_config

from vllm_script.families.mistral3 import Mistral3Family

SIZES = [(1, 1), (28, 29), (84, 140), (300, 20), (448, 448), (900, 500), (2000, 90)]


@pytest.fixture(scope="module")
def renderer(checkpoint):
    """What the API process of a server makes prompts with."""
    args = EngineArgs(
        str(checkpoint("mistral3")),
        additional_config={"script": {"relevance": "none", "keep_ratio": 0.4}},
        max_model_len=1024,
    )
    return renderer_from_config(args.create_engine_config())


def rendered(renderer, *sizes, **script):
    images = [Image.fromarray(np.zeros((h, w, 3), dtype=np.uint8)) for w, h in sizes]
    prompt = {"prompt": "Look: " + "[IMG]" * len(images) + "?"}
    prompt |= {"multi_modal_data": {"image": images}}
    prompt |= {"mm_processor_kwargs": {"script": script}} if script else {}
    (result,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
    return result


def texts(renderer, result):
    """Of each image the tokens that it has in the prompt."""
    names = renderer.get_tokenizer().convert_ids_to_tokens(result["prompt_token_ids"])
    spans = result["mm_placeholders"]["image"]
    return [names[span.offset : span.offset + span.length] for span in spans]


def test_example():
    """The geometry of Mistral Small 3.1: patches of 14 pixels, four of them a token."""
    name, layout = Mistral3Family().example(Mistral3Config())
    assert (name, layout.num_placeholders, layout.columns) == ("1280x720", 26 * 46, 46)


@pytest.mark.parametrize("size", SIZES)
def test_an_image_that_is_left_whole_has_its_breaks(renderer, size):
    processor = renderer.get_mm_processor()
    layout = processor.family.image_layout(processor.info, size[1], size[0], {})
    result = rendered(renderer, size, keep_ratio=1.0)
    rows, columns = layout.num_patches // layout.columns, layout.columns
    (item,) = result["mm_kwargs"]["image"]
    assert item["pixel_values"].data.shape[1:] == (rows * 28, columns * 28)
    row = ["[IMG]"] * columns
    assert texts(renderer, result) == [(row + ["[IMG_BREAK]"]) * (rows - 1) + row + ["[IMG_END]"]]


@pytest.mark.parametrize("size", [(84, 140), (448, 448), (900, 500)])
def test_a_pruned_image_is_one_run_and_its_end(renderer, size):
    processor = renderer.get_mm_processor()
    total = processor.family.image_layout(processor.info, size[1], size[0], {}).num_placeholders
    result = rendered(renderer, size)
    kept = int(0.4 * total + 0.5)
    assert texts(renderer, result) == [["[IMG]"] * kept + ["[IMG_END]"]]
    (span,) = result["mm_placeholders"]["image"]
    assert span.extract_embeds_range() == [(span.offset, span.offset + kept - 1)]


def test_images_side_by_side_are_told_apart_by_their_ends(renderer):
    result = rendered(renderer, (84, 84), (140, 84), visual_token_budget=9)
    whole = ["[IMG]"] * 3 + ["[IMG_BREAK]"]
    first, second = texts(renderer, result)
    assert first == whole * 2 + ["[IMG]"] * 3 + ["[IMG_END]"]
    assert second == ["[IMG]"] * 9 + ["[IMG_END]"]


@pytest.mark.parametrize(
    "kwargs", [{"do_resize": False}, {"size": {"height": 112, "width": 112}}], ids=str
)
def test_pixels_that_the_size_does_not_tell_are_refused(renderer, kwargs):
    """The worker would find other rows than the prompt has room for."""
    picture = Image.new("RGB", (400, 300))
    prompt = {"prompt": "Look: [IMG]?", "multi_modal_data": {"image": [picture]}}
    prompt |= {"mm_processor_kwargs": kwargs}
    with pytest.raises(VLLMValidationError, match="165 visual tokens, and .* mm_processor_kwargs"):
        renderer.render_cmpl([prompt], skip_mm_cache=True)
