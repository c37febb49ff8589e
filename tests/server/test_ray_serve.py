"""What Ray Serve is told, and by what requests are told apart; tests/real/ runs it."""

import json

import pytest

pytest.importorskip("ray", reason="Ray is not installed; the extra `ray` has it")

from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

from vllm_script.server.deploy.ray_serve import Options, app, session_of
from vllm_script.server.proxy import CHAT

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
OTHER = {"type": "image_url", "image_url": {"url": "data:image/png;base64,BB"}}


def chat(*parts, **fields):
    return json.dumps({"messages": [{"role": "user", "content": list(parts)}], **fields}).encode()


def text(words):
    return {"type": "text", "text": words}


def test_a_picture_is_a_session():
    first = session_of(CHAT, chat(IMAGE, text("Where?")))
    assert session_of(CHAT, chat(text("Who?"), IMAGE, OTHER, max_tokens=3)) == first
    assert session_of(CHAT, chat(OTHER, text("Where?"))) != first
    assert session_of(CHAT, chat(text("Where?"))) != session_of(CHAT, chat(text("Who?")))


def test_a_uuid_stands_for_its_picture():
    named = session_of(CHAT, chat({**IMAGE, "uuid": "a"}))
    assert session_of(CHAT, chat({"type": "image_url", "uuid": "a"})) == named


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b'{"messages": 7}', b'{"messages": [7]}']
)
def test_what_is_no_chat_has_one_session(body):
    assert session_of(CHAT, body) == session_of("/v1/responses", chat(IMAGE))


def test_words_of_the_command_line():
    """`serve run` hands them over as they are."""
    words = dict(model="llava-next", replicas="3", gpus="2", flags="--plugin script --seed 1")
    application = call_user_app_builder_with_args_if_necessary(app, words)
    servers = application._bound_deployment.init_args[0]._bound_deployment
    assert servers.num_replicas == 3
    assert servers.ray_actor_options["num_gpus"] == 2
    assert servers.init_args == ("llava-next", ["--plugin", "script", "--seed", "1"])


def test_a_server_prunes_unless_it_is_told_otherwise():
    assert Options(model="llava-next").flags == "--plugin script"
