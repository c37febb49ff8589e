"""Identifiers and placeholders as vLLM's own renderer makes them, without running the model."""

import numpy as np
import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config
from vllm.renderers.params import ChatParams

from vllm_script.models import llava_next


@pytest.fixture(scope="module")
def render(checkpoint):
    """render(script settings, messages, overrides=None) -> (identifiers, placeholder lengths)."""
    renderers = {}

    def render(settings, messages, overrides=None):
        if (key := repr(settings)) not in renderers:
            config = {} if settings is None else {"script": settings}
            args = EngineArgs(str(checkpoint("llava-next")), additional_config=config)
            renderers[key] = renderer_from_config(args.create_engine_config())
        template_kwargs = {} if overrides is None else {"script": overrides}
        params = ChatParams(chat_template_kwargs=template_kwargs)
        _, (prompt,) = renderers[key].render_chat([messages], params)
        lengths = [span.length for span in prompt["mm_placeholders"]["image"]]
        return prompt["mm_hashes"]["image"], lengths

    return render


def image(seed, width=168, height=168):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    return {"type": "image_pil", "image_pil": Image.fromarray(pixels)}


def user(*parts):
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


def test_off_is_stock(render):
    messages = [user("Compare", image(0), image(1, 200, 90), image(2, 84, 230), "the three.")]
    stock = render(None, messages)
    assert render({"keep_ratio": 1.0}, messages) == stock
    assert render({"visual_token_budget": 192}, messages) == stock
    assert render({}, messages, {"keep_ratio": 1.0}) == stock
    assert render({}, messages)[0] != stock[0]


def test_settings_of_the_server_and_of_the_request_are_the_same_plan(render):
    messages = [user(image(0), "What?")]
    on_server = render({"keep_ratio": 0.3, "mode": "cdpruner"}, messages)
    assert render({}, messages, {"keep_ratio": 0.3, "mode": "cdpruner"}) == on_server


def test_a_new_turn_or_image_leaves_identifiers_alone(render):
    first = [user(image(0), "What is shown?")]
    (one,), _ = render({}, first)
    later = [*first, {"role": "assistant", "content": "A temple."}]
    assert render({}, [*later, user("And why?")])[0] == [one]
    two, _ = render({}, [*later, user(image(1), "And here?")])
    assert two[0] == one
    assert len(set(two)) == 2


def test_each_image_has_its_own_question(render):
    (alone,), _ = render({}, [user(image(0), "first")])
    turns = [
        user(image(0), "first"),
        {"role": "assistant", "content": "x"},
        user(image(0), "second"),
    ]
    (one, two), _ = render({}, turns)
    assert one == alone != two


def test_images_whole_and_pruned_in_one_prompt(render):
    """A budget that covers the small image only."""
    messages = [user(image(0, 168, 168), image(1, 100, 30), "What?")]
    stock, lengths = render(None, messages)
    assert lengths == [192, 88]
    identifiers, lengths = render({"visual_token_budget": 88}, messages)
    assert lengths == [88, 88]
    assert identifiers[0] != stock[0] and identifiers[1] == stock[1]


@pytest.mark.parametrize("height", [1, 2, 41, 84, 100, 167, 168, 169, 333, 20000])
@pytest.mark.parametrize("width", [1, 3, 37, 84, 99, 168, 250, 20000])
def test_layout_has_the_rows_that_vllm_expects(render, width, height, checkpoint):
    from transformers import AutoConfig

    hf_config = AutoConfig.from_pretrained(checkpoint("llava-next"))
    layout = llava_next.layout_of(hf_config, height, width)
    if width * height < 1_000_000:
        _, (length,) = render(None, [user(image(0, width, height))])
        assert layout.num_placeholders == length
    patches = layout.candidates
    assert patches.unique().numel() == patches.numel()
    # Base tile first; then each row of the grid, closed by a newline.
    assert layout.rows[:36].tolist() == list(range(36))
    grid = layout.rows[36:]
    newlines = (grid < 0).nonzero().flatten()
    if len(newlines):
        row_length = int(newlines[0]) + 1
        assert grid.view(-1, row_length)[:, -1].lt(0).all()
        assert grid.view(-1, row_length)[:, :-1].ge(36).all()
