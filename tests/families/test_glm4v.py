"""GLM's own: sizes of images by its processor, marks around items, frames and their time stamps."""

import numpy as np
import pytest
from PIL import Image
from transformers import Glm4vConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.renderers import renderer_from_config

from vllm_script.families.glm4v import GlmFamily

FRAMES = 8
ABOUT = dict(fps=2.0, duration=4.0, total_num_frames=FRAMES, do_sample_frames=False)


@pytest.fixture(scope="module", params=["glm4.1v", "glm4.6v"])
def renderer(checkpoint, request):
    """What the API process of a server makes prompts with."""
    args = EngineArgs(
        str(checkpoint(request.param)),
        additional_config={"script": {"relevance": "none", "keep_ratio": 0.4}},
        max_model_len=1024,
    )
    return renderer_from_config(args.create_engine_config())


def rendered(renderer, text, data, kwargs=None, **script):
    prompt = {"prompt": text, "multi_modal_data": data}
    kwargs = (kwargs or {}) | ({"script": script} if script else {})
    prompt |= {"mm_processor_kwargs": kwargs} if kwargs else {}
    (result,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
    return result


def film(indices):
    frames = np.random.default_rng(0).integers(0, 255, (FRAMES, 84, 140, 3), dtype=np.uint8)
    return frames, ABOUT | {"frames_indices": indices, "video_backend": "opencv"}


def test_example():
    """The geometry of the published checkpoints: patches of 14 pixels, four of them a token."""
    name, layout = GlmFamily().example(Glm4vConfig())
    assert (name, layout.num_placeholders, layout.columns) == ("1280x720", 26 * 46, 46)


@pytest.mark.parametrize("size", [(20, 20), (30, 500), (84, 84), (700, 500), (2000, 90)])
def test_images_are_as_large_as_the_processor_makes_them(renderer, size):
    """Small ones grow, which vLLM's own count of tokens does not know."""
    processor = renderer.get_mm_processor()
    layout = processor.family.image_layout(processor.info, *size[::-1], {})
    prompt = "<|begin_of_image|><|image|><|end_of_image|>What?"
    data = {"image": [Image.new("RGB", size)]}
    result = rendered(renderer, prompt, data, keep_ratio=1.0)
    (item,) = result["mm_kwargs"]["image"]
    _, rows, columns = item["image_grid_thw"].data.tolist()
    assert (layout.num_placeholders, layout.columns) == (rows * columns // 4, columns // 2)


def test_a_video_keeps_marks_and_time_stamps_and_of_every_frame_the_same_part(renderer):
    """What is not the image's token is as in the whole video, wherever the video stands."""
    text = "<|begin_of_video|><|video|><|end_of_video|>"
    data = {"video": [film(list(range(FRAMES)))]}
    token = renderer.get_mm_processor().info.get_hf_config().image_token_id
    whole = rendered(renderer, f"Look: {text}?", data, keep_ratio=1.0)["prompt_token_ids"]
    result = rendered(renderer, f"Look: {text}?", data)
    kept = result["prompt_token_ids"]
    assert [t for t in kept if t != token] == [t for t in whole if t != token]
    (span,) = result["mm_placeholders"]["video"]
    frames = [last + 1 - first for first, last in span.extract_embeds_range()]
    assert frames == [6] * (FRAMES // 2) and whole.count(token) == 15 * (FRAMES // 2)


def test_a_video_may_be_all_there_is(renderer):
    """The marks and time stamps that it brings are the text that its frames stand between."""
    data = {"video": [film(list(range(FRAMES)))]}
    result = rendered(renderer, "<|begin_of_video|><|video|><|end_of_video|>", data)
    (span,) = result["mm_placeholders"]["video"]
    assert (span.offset, span.length) == (0, len(result["prompt_token_ids"]))


def test_frames_that_are_not_those_of_the_metadata_are_refused(renderer):
    """A frame that is named twice has one time stamp, and pixels for two."""
    text = "Look: <|begin_of_video|><|video|><|end_of_video|>?"
    data = {"video": [film([0, 1, 2, 3, 4, 4, 5, 5])]}
    with pytest.raises(VLLMValidationError, match="video 0 has 60 visual tokens, .* room for 45"):
        rendered(renderer, text, data)


def test_an_item_without_its_marks_is_refused(renderer):
    data = {"image": [Image.new("RGB", (84, 84))]}
    words = r"between <\|begin_of_image\|> and <\|end_of_image\|>"
    with pytest.raises(VLLMValidationError, match=words):
        rendered(renderer, "<|image|>What?", data)


def test_half_a_size_is_refused(renderer):
    picture = Image.new("RGB", (280, 168))
    text = "<|begin_of_image|><|image|><|end_of_image|>What?"
    with pytest.raises(VLLMValidationError, match="needs shortest_edge and longest_edge"):
        rendered(renderer, text, {"image": [picture]}, {"size": {"longest_edge": 50176}})


@pytest.mark.parametrize("context", [512, 1 << 20])
def test_no_item_is_larger_than_the_context(renderer, context):
    info = renderer.get_mm_processor().info
    for modality in ("image", "video"):
        assert 0 < GlmFamily().largest_item(info, modality, context) <= context
