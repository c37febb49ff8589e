"""The `script` field on its way from a request's body to the renderer."""

from collections import OrderedDict

import pytest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from vllm_script.frontend.request import ScriptRequest
from vllm_script.server import script_field


@pytest.fixture(autouse=True)
def storing(monkeypatch):
    """A server that stores responses, and has stored none yet."""
    monkeypatch.setenv("VLLM_ENABLE_RESPONSES_API_STORE", "1")
    monkeypatch.setattr(script_field, "_scripts", OrderedDict())


def response(name, script=None, previous=None, store=True):
    fields = {"request_id": name, "previous_response_id": previous, "input": "Hi", "store": store}
    return ResponsesRequest(**fields, **({} if script is None else {"script": script}))


def asked(*args, accepted=True, **kwargs):
    """What reaches the renderer, which accepts it or not."""
    script = script_field._script_of(response(*args, **kwargs)).get("script")
    if not isinstance(script, ScriptRequest):
        return script
    if accepted:
        script.accepted()
    return script.overrides


def test_a_response_goes_on_with_the_settings_of_the_one_before():
    first, other = {"keep_ratio": 0.3}, {"keep_ratio": 0.6}
    assert asked("resp_a", first) == first
    assert asked("resp_b", previous="resp_a") == first
    assert asked("resp_c", previous="resp_b") == first
    assert asked("resp_d", other, previous="resp_b") == other
    assert asked("resp_e", previous="resp_d") == other
    assert asked("resp_f", previous="never seen") is None
    assert asked("resp_g") is None


def test_old_chains_are_forgotten(monkeypatch):
    monkeypatch.setattr(script_field, "CHAINS", 2)
    for number in range(3):
        asked(f"resp_{number}", {"keep_ratio": 0.3})
    assert asked("resp_x", previous="resp_0") is None
    assert asked("resp_y", previous="resp_2") == {"keep_ratio": 0.3}


def test_only_what_is_stored_and_accepted_is_remembered(monkeypatch):
    script = {"keep_ratio": 0.3}
    assert asked("resp_a", script, accepted=False) == script
    assert asked("resp_b", script, store=False) == script
    monkeypatch.setenv("VLLM_ENABLE_RESPONSES_API_STORE", "0")
    assert asked("resp_c", script) == script
    assert not script_field._scripts
