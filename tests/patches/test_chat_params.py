import importlib

import pytest
from vllm.renderers.params import ChatParams

from vllm_script.patches import chat_params


@pytest.fixture(params=chat_params._REQUESTS.items(), ids=lambda pair: pair[0])
def request_class(request, monkeypatch):
    """A request class of vLLM's whose method is a plain one, put back after the test."""
    for name, module in chat_params._REQUESTS.items():
        owner = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(owner, "build_chat_params", build_chat_params)
    name, module = request.param
    return getattr(importlib.import_module(module), name)


def build_chat_params(self, default_template, *, more=None):
    return ChatParams(chat_template=default_template, chat_template_kwargs={"more": more})


def test_what_a_request_carries_is_among_the_template_kwargs(request_class):
    chat_params.add_template_kwargs(lambda request: {"script": 7})
    request = request_class.model_construct()
    params = request.build_chat_params("{{ x }}", more=1)
    assert params.chat_template == "{{ x }}"
    assert params.chat_template_kwargs == {"more": 1, "script": 7}


def test_params_of_a_request_that_carries_nothing_are_vllms(request_class):
    chat_params.add_template_kwargs(lambda request: {})
    params = request_class.model_construct().build_chat_params("x")
    assert params.chat_template_kwargs == {"more": None}
