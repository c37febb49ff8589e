"""Mistral's own format: the tokenizer lays images out in rows, before anything is pruned."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.renderers import renderer_from_config
from vllm.renderers.params import ChatParams

from vllm_script.families.pixtral import PixtralFamily

from .. import mistral

SIZES = [(1, 1), (28, 29), (84, 140), (300, 20), (448, 448), (900, 500), (2000, 90)]
IMG, BREAK, END = 10, 12, 13


def arguments(folder, **settings):
    script = {"relevance": "embedding", "keep_ratio": 0.4}
    return EngineArgs(
        str(folder), additional_config={"script": script}, max_model_len=1024, **settings
    )


@pytest.fixture(scope="module")
def renderer(checkpoint):
    """What the API process of a server makes prompts with."""
    return renderer_from_config(arguments(checkpoint("pixtral")).create_engine_config())


def picture(width, height):
    return Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8))


def laid_out(renderer, *turns):
    """The prompt of users' turns and answers between them, as Mistral's tokenizer has it."""
    return mistral.token_ids(renderer.get_tokenizer(), *turns)


def rendered(renderer, token_ids, images, **script):
    prompt = {"prompt_token_ids": token_ids, "multi_modal_data": {"image": images}}
    prompt |= {"mm_processor_kwargs": {"script": script}} if script else {}
    (result,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
    return result


def images_of(result):
    """Of each image the tokens that it has in the prompt."""
    ids = result["prompt_token_ids"]
    spans = result["mm_placeholders"]["image"]
    return [ids[span.offset : span.offset + span.length] for span in spans]


@pytest.mark.parametrize(
    ("vision", "grid"),
    [
        ({"image_size": 1024, "patch_size": 16}, (36, 64)),  # the first Pixtral
        ({"image_size": 1540, "patch_size": 14, "spatial_merge_size": 2}, (26, 46)),  # Small 3.1
    ],
)
def test_example(vision, grid):
    rows, columns = grid
    config = SimpleNamespace(vision_config=SimpleNamespace(**vision))
    name, layout = PixtralFamily().example(config)
    assert (name, layout.num_placeholders) == ("1280x720", rows * columns)
    assert layout.columns == columns


@pytest.mark.parametrize("size", SIZES)
def test_a_whole_image_leaves_the_prompt_as_the_tokenizer_has_it(renderer, size):
    token_ids = laid_out(renderer, [picture(*size), "What?"])
    result = rendered(renderer, token_ids, [picture(*size)], keep_ratio=1.0)
    assert result["prompt_token_ids"] == token_ids
    (image,) = images_of(result)
    processor = renderer.get_mm_processor()
    layout = processor.family.image_layout(processor.info, size[1], size[0], {})
    assert image.count(IMG) == layout.num_placeholders
    assert image.count(BREAK) + 1 == layout.num_patches // layout.columns
    (item,) = result["mm_kwargs"]["image"]
    assert item["images"].data.shape[2] == layout.columns * 28


@pytest.mark.parametrize("size", [(84, 140), (448, 448), (900, 500)])
def test_a_pruned_image_is_one_run_and_its_end(renderer, size):
    token_ids = laid_out(renderer, ["Look:", picture(*size), "What?"])
    kept = int(0.4 * token_ids.count(IMG) + 0.5)
    result = rendered(renderer, token_ids, [picture(*size)])
    run = [IMG] * kept + [END]
    assert images_of(result) == [run]
    first, last = token_ids.index(IMG), token_ids.index(END)
    assert result["prompt_token_ids"] == token_ids[:first] + run + token_ids[last + 1 :]


def test_images_side_by_side(renderer):
    """The first has no more tokens than the budget, so it stays whole."""
    images = [picture(84, 84), picture(140, 84)]
    result = rendered(renderer, laid_out(renderer, [*images, "?"]), images, visual_token_budget=9)
    row = [IMG] * 3
    assert images_of(result) == [[*row, BREAK] * 2 + [*row, END], [IMG] * 9 + [END]]


def test_questions_of_token_ids_are_those_of_messages(renderer):
    images = [picture(280, 168), picture(168, 280)]
    turns = [[images[0], "What is this?"], ["A temple."], [images[1], "Why?"]]
    by_tokens = rendered(renderer, laid_out(renderer, *turns), images, conversation="turn")
    shown = [
        {"type": "image_url", "image_url": {"url": mistral.data_url(image)}} for image in images
    ]
    messages = [
        {"role": "user", "content": [shown[0], {"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": "A temple."},
        {"role": "user", "content": [shown[1], {"type": "text", "text": "Why?"}]},
    ]
    params = ChatParams(chat_template_kwargs={"script": {"conversation": "turn"}})
    _, (by_messages,) = renderer.render_chat([messages], params, skip_mm_cache=True)
    assert by_messages["prompt_token_ids"] == by_tokens["prompt_token_ids"]
    plans = [
        [bytes(item["script_plan"].data.tolist()) for item in result["mm_kwargs"]["image"]]
        for result in (by_tokens, by_messages)
    ]
    assert plans[0] == plans[1]
    assert plans[0][0] != plans[0][1], "each image has the question of its turn"


@pytest.mark.parametrize("change", [lambda ids: ids[1:], lambda ids: [IMG, *ids]])
def test_rows_that_are_not_the_images_are_refused(renderer, change):
    token_ids = laid_out(renderer, [picture(84, 84), "What?"])
    start, stop = token_ids.index(IMG), token_ids.index(END) + 1
    token_ids[start:stop] = change(token_ids[start:stop])
    with pytest.raises(VLLMValidationError, match="image 0 has no place"):
        rendered(renderer, token_ids, [picture(84, 84)])


def test_an_image_that_has_no_tokens_is_refused(renderer):
    token_ids = laid_out(renderer, ["What?"])
    with pytest.raises(VLLMValidationError, match="image 0 has no place|0 image placeholders"):
        rendered(renderer, token_ids, [picture(84, 84)])


def test_another_tokenizer_is_refused(checkpoint):
    """Also Mistral's own for a model whose prompts transformers' lays out."""
    for family, mode, needed in [("pixtral", "hf", "mistral"), ("mistral3", "mistral", "hf")]:
        with pytest.raises(ValueError, match=f"start with --tokenizer-mode {needed}"):
            arguments(checkpoint(family), tokenizer_mode=mode).create_model_config()
