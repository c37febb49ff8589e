"""Identifiers and placeholders as vLLM's own renderer makes them, without running the model."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaNextConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.renderers import renderer_from_config
from vllm.renderers.params import ChatParams

from vllm_script.families import family_of, pruned_name


def layout_of(hf_config, height, width):
    """Layout of a LLaVA-NeXT image."""
    family = family_of(pruned_name("LlavaNextForConditionalGeneration"))
    fields = {"image_sizes": torch.tensor([height, width])}
    return family.item_layout(hf_config, "image", fields)


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
    own = {"conversation": "turn"}
    assert render(own, [*later, user("And why?")])[0] == [one]
    assert render({}, [*later, user("And why?")])[0] != [one]
    assert render({}, [*later, user("")])[0] == [one]
    two, _ = render(own, [*later, user(image(1), "And here?")])
    assert two[0] == one
    assert len(set(two)) == 2


def test_each_image_has_its_own_question(render):
    (alone,), _ = render({}, [user(image(0), "first")])
    turns = [
        user(image(0), "first"),
        {"role": "assistant", "content": "x"},
        user(image(0), "second"),
    ]
    (one, two), _ = render({"conversation": "turn"}, turns)
    assert one == alone != two
    (newest,), _ = render({}, [user(image(0), "second")])
    assert render({}, turns)[0] == [newest] * 2


def test_images_whole_and_pruned_in_one_prompt(render):
    """A budget that covers the small image only."""
    messages = [user(image(0, 168, 168), image(1, 100, 30), "What?")]
    stock, lengths = render(None, messages)
    assert lengths == [192, 88]
    identifiers, lengths = render({"visual_token_budget": 88}, messages)
    assert lengths == [88, 88]
    assert identifiers[0] != stock[0] and identifiers[1] == stock[1]


def test_max_keep_ratio_bounds_requests(render):
    settings = {"max_keep_ratio": 0.5}
    messages = [user(image(0), "What?")]
    assert render(settings, messages, {"visual_token_budget": 96})[1] == [96]
    for script in ({"visual_token_budget": 97}, {"visual_token_budget": 60_000}):
        with pytest.raises(VLLMValidationError, match="the server allows 96 of its 192"):
            render(settings, messages, script)


def test_max_keep_ratio_bounds_the_servers_own_budget(render):
    """A small image would keep more than its half: nobody asked for that, so it is no mistake."""
    settings = {"max_keep_ratio": 0.5, "visual_token_budget": 64}
    assert render(settings, [user(image(0), image(1, 100, 30), "What?")])[1] == [64, 44]


def test_identifiers_are_the_same_wherever_the_model_is_installed(checkpoint, tmp_path):
    """With CLIP, too; and nothing that is sent says where that is."""
    here, elsewhere = checkpoint("llava-next"), tmp_path / "elsewhere"
    shutil.copytree(here, elsewhere)
    sent = []
    for folder in here, elsewhere:
        args = EngineArgs(str(folder), additional_config={"script": {"relevance": "clip"}})
        renderer = renderer_from_config(args.create_engine_config())
        messages = [user({**image(0), "uuid": "a client's name"}, "What?")]
        _, (prompt,) = renderer.render_chat([messages], ChatParams(), skip_mm_cache=True)
        (item,), (name,) = prompt["mm_kwargs"]["image"], prompt["mm_hashes"]["image"]
        plan = bytes(item["script_plan"].data.tolist())
        assert b'"clip"' in plan and str(folder.parent).encode() not in plan
        assert re.fullmatch("[0-9a-f]{64}", name)
        sent.append((name, plan))
    assert sent[0] == sent[1]


@pytest.mark.parametrize(
    "settings, largest",
    [({}, 192), ({"max_keep_ratio": 0.5}, 96), ({"visual_token_budget": 9}, 192)],
)
def test_memory_is_profiled_for_the_largest_request(checkpoint, settings, largest):
    args = EngineArgs(str(checkpoint("llava-next")), additional_config={"script": settings})
    processor = MULTIMODAL_REGISTRY.create_processor(args.create_engine_config().model_config)
    (span,) = processor.get_dummy_mm_inputs({"image": 1})["mm_placeholders"]["image"]
    assert span.length == largest


def test_a_prompt_that_bypassed_our_renderer_is_refused(checkpoint):
    args = EngineArgs(str(checkpoint("llava-next")), additional_config={"script": {}})
    processor = MULTIMODAL_REGISTRY.create_processor(args.create_engine_config().model_config)
    items = processor.info.parse_mm_data({"image": image(0)["image_pil"]})
    with pytest.raises(RuntimeError, match="did not pass through the renderer"):
        processor([4], items)


@pytest.mark.parametrize(
    "width, height, placeholders, patches",
    [(672, 672, 2928, 2880), (640, 480, 2340, 2304), (336, 336, 1176, 1152)],
)
def test_layout_of_the_published_geometry(width, height, placeholders, patches):
    """The table of vllm_script/README.md: tiles of 336 pixels, patches of 14, five pinpoints."""
    layout = layout_of(LlavaNextConfig(), height, width)
    assert (layout.num_placeholders, layout.num_patches) == (placeholders, patches)


@pytest.mark.parametrize("height", [1, 2, 41, 84, 100, 167, 168, 169, 333, 20000])
@pytest.mark.parametrize("width", [1, 3, 37, 84, 99, 168, 250, 20000])
def test_layout_has_the_rows_that_vllm_expects(render, width, height, checkpoint):
    from transformers import AutoConfig

    hf_config = AutoConfig.from_pretrained(checkpoint("llava-next"))
    layout = layout_of(hf_config, height, width)
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
