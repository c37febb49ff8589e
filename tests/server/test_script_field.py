"""The `script` field on its way from a request's body to the renderer."""

from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from vllm_script.server import script_field


def response(name, script=None, previous=None):
    fields = {"request_id": name, "previous_response_id": previous, "input": "Hi"}
    return ResponsesRequest(**fields, **({} if script is None else {"script": script}))


def asked(*args, **kwargs):
    return script_field._script_of(response(*args, **kwargs)).get("script")


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
    monkeypatch.setattr(script_field, "_scripts", type(script_field._scripts)())
    for number in range(3):
        asked(f"resp_{number}", {"keep_ratio": 0.3})
    assert asked("resp_x", previous="resp_0") is None
    assert asked("resp_y", previous="resp_2") == {"keep_ratio": 0.3}
