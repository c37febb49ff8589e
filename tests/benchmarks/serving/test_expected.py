"""How long prompts must be, in numbers worked out by hand."""

import numpy as np
import pytest
import torch

from vllm_script.benchmarks.common import data_url
from vllm_script.benchmarks.serving.cells import SCRIPT, STOCK, Arm
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.requests import Request, Size
from vllm_script.layout import Layout


def request(text, size):
    """A request with something black of that size."""
    shape = (size.height, size.width, 3)
    pixels = np.zeros((size.frames, *shape) if size.frames else shape, np.uint8)
    return Request(text, size, data_url(pixels))


@pytest.fixture(scope="module")
def of_family(family_checkpoint):
    """of_family(name) -> Expected, one for the module."""
    known = {}

    def make(family):
        if family not in known:
            known[family] = Expected(str(family_checkpoint(family)))
        return known[family]

    return make


@pytest.mark.parametrize(
    ("size", "keep_ratio", "tokens"),
    [((168, 168), None, 192), ((168, 168), 1.0, 192), ((168, 168), 0.11, 21), ((84, 84), 0.5, 39)],
)
def test_expected_visual_tokens(expected, size, keep_ratio, tokens):
    """Tiles of 6 x 6 patches: 168x168 is the base tile and a grid of 12 rows with newlines."""
    assert expected.kept_by(Arm(SCRIPT, keep_ratio), Size(*size)) == tokens


def test_expected_text_tokens_are_the_templates_and_the_texts(expected):
    text = "USER: <image>\nRead the sign. ASSISTANT:"
    whole = expected.tokenizer(text, add_special_tokens=False).input_ids
    asked = request("Read the sign.", Size(84, 84))
    assert expected.text_tokens(asked) == len(whole) - 1


IMAGE, VIDEO = Size(168, 112), Size(168, 112, 4)
LARGE_IMAGE, LARGE_VIDEO = Size(192, 128), Size(192, 128, 4)


@pytest.mark.parametrize(
    ("family", "size", "kept"),
    [
        # 6 x 4 tokens, of which ceil(6 / 4) must stay; two frames make one.
        ("qwen2-vl", IMAGE, {1.0: 24, 0.25: 6, 0.01: 2}),
        ("qwen2-vl", VIDEO, {1.0: 48, 0.25: 12, 0.01: 2}),
        ("qwen2.5-vl", IMAGE, {1.0: 24, 0.25: 6, 0.01: 2}),
        ("qwen2.5-vl", VIDEO, {1.0: 48, 0.25: 12, 0.01: 2}),
        # The same of patches of 16 pixels; that many must stay of every frame.
        ("qwen3-vl", LARGE_IMAGE, {1.0: 24, 0.25: 6, 0.01: 2}),
        ("qwen3-vl", LARGE_VIDEO, {1.0: 48, 0.25: 12, 0.01: 4}),
        ("glm4.1v", IMAGE, {1.0: 24, 0.25: 6, 0.01: 2}),
        ("glm4.6v", VIDEO, {1.0: 48, 0.25: 12, 0.01: 4}),
        # The base tile and one more, 6 x 6 patches each, with newlines behind the rows of the
        # latter; 3 x 3 of every frame, and one newline.
        ("llava-onevision", Size(84, 84), {1.0: 78, 0.99: 72, 0.25: 20}),
        ("llava-onevision", Size(84, 84, 4), {1.0: 37, 0.99: 36, 0.25: 9, 0.01: 4}),
    ],
    ids=lambda value: str(value) if isinstance(value, str | Size) else "",
)
def test_visual_tokens_of_families(of_family, family, size, kept):
    found = {ratio: of_family(family).kept_by(Arm(SCRIPT, ratio), size) for ratio in kept}
    assert found == kept


def test_limits_of_the_processor_count(of_family):
    """At most 256 tokens of 28 x 28 pixels."""
    assert 200 < of_family("qwen2-vl").kept_by(Arm(STOCK), Size(1400, 1400)) <= 256


def test_time_stamps_are_beside_the_visual_tokens(of_family):
    expected = of_family("qwen3-vl")
    count = len(expected.tokenizer("<0.5 seconds>", add_special_tokens=False).input_ids)
    image, video = (expected.text_tokens(request("?", s)) for s in (LARGE_IMAGE, LARGE_VIDEO))
    # Of two frames, each of them between <|vision_start|> and <|vision_end|> as the whole is.
    assert video - image == 2 * (count + 2)


def test_what_a_family_has(expected, of_family):
    assert expected.modalities == ("image",) and expected.own_methods == ()
    assert of_family("qwen2-vl").own_methods == ()
    assert of_family("qwen2.5-vl").own_methods == ("evs",)
    assert of_family("qwen3-vl").own_methods == ("evs", "vidcom2")
    assert of_family("qwen3-vl-moe").own_methods == ("evs", "vidcom2")
    assert of_family("llava-onevision").modalities == ("image", "video")


def test_layout_that_is_not_vllms_is_found(expected, monkeypatch):
    family = expected._pruning.family
    monkeypatch.setattr(family, "image_layout", lambda *size: Layout(torch.arange(5)))
    with pytest.raises(
        RuntimeError, match="image of 100x90 .* visual tokens, the plugin's layout 5"
    ):
        expected.kept_by(Arm(STOCK), Size(100, 90))
