"""What the renderer does before the prompt's items are processed."""

import asyncio
import threading
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.renderers.base import BaseRenderer

from vllm_script.config import ScriptConfig
from vllm_script.frontend.renderer import NOTE_KEY, ScriptRenderer
from vllm_script.frontend.request import ScriptRequest


def renderer(cache_gb=0, are_there=True, check=lambda: None, **transfers):
    """A renderer of an engine whose own caches are off, without a model."""
    made = ScriptRenderer.__new__(ScriptRenderer)
    multimodal = SimpleNamespace(mm_processor_cache_gb=0)
    made.model_config = SimpleNamespace(multimodal_config=multimodal)
    made.config = SimpleNamespace(
        cache_config=SimpleNamespace(enable_prefix_caching=False),
        scheduler_config=SimpleNamespace(encoder_cache_size=0),
        **{"ec_transfer_config": None, "kv_transfer_config": None, **transfers},
    )
    made._script_config = ScriptConfig(cache_gb=cache_gb)
    made._peers = SimpleNamespace(are_there=are_there, check=check)
    made._raw_queries = lambda prompt: {"image": [()]}
    return made


@pytest.mark.parametrize(
    ("numbered", "given"),
    [
        (True, {}),
        (False, {"cache_gb": 1}),
        (False, {"ec_transfer_config": SimpleNamespace()}),
        (False, {"kv_transfer_config": SimpleNamespace()}),
    ],
)
def test_images_are_numbered_only_where_nobody_keeps_them(numbered, given):
    made = renderer(**given)
    made._validate_mm_uuids = lambda *args: None
    items = SimpleNamespace(get_all_counts=lambda: {"image": 2})
    uuids = made._process_mm_uuids({}, items, {"image": [None, "own"]}, "renderer0-mm-0")
    assert uuids == {"image": ["renderer0-mm-0-image-0" if numbered else None, "own"]}


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("shares", [True, False])
def test_the_event_loop_does_not_wait_for_the_peers(monkeypatch, images, shares):
    """And nobody is asked where no folder is shared."""

    async def process(self, prompt, *, skip_mm_cache=False):
        return prompt

    monkeypatch.setattr(BaseRenderer, "_process_tokens_async", process)
    asked = []
    made = renderer(are_there=shares, check=lambda: asked.append(threading.current_thread()))
    prompt = {"prompt_token_ids": [1]} | ({"multi_modal_data": {"image": [0]}} if images else {})
    asyncio.run(made._process_tokens_async(prompt))
    assert [thread is threading.main_thread() for thread in asked] == [False] * (images and shares)


def test_only_settings_that_are_right_are_accepted():
    accepted = []
    for ratio in 9, 0.3:
        note = ScriptRequest({"keep_ratio": ratio}, accepted=partial(accepted.append, ratio))
        with pytest.raises(VLLMValidationError) if ratio == 9 else nullcontext():
            renderer()._with_request({"prompt_token_ids": [1], NOTE_KEY: note})
    assert accepted == [0.3]
