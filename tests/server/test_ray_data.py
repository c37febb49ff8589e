"""What an engine is asked for a batch of Ray Data, and what goes into its rows."""

import base64
import inspect
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("ray", reason="Ray is not installed; the extra `ray` has it")

from ray.data import ActorPoolStrategy, Dataset

from vllm_script.server.deploy import ray_data


@pytest.fixture
def engine(monkeypatch):
    """An engine whose answers are the questions, and what vLLM was given."""
    given = {}

    class Pretended:
        def __init__(self, **settings):
            given["settings"] = settings

        def chat(self, chats, sampling, use_tqdm):
            given["chats"], given["sampling"] = chats, sampling
            texts = [chat[0]["content"][1]["text"] for chat in chats]
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text=f" {t}\n")], prompt_token_ids=[1] * 7)
                for t in texts
            ]

    monkeypatch.setattr(ray_data, "LLM", Pretended)
    settings = {"model": "m", "additional_config": {"script": {"keep_ratio": 0.2}}}
    return ray_data.Engine(settings, 9), given


def test_what_ray_is_told():
    told = {}

    def map_batches(*words, **options):
        told.update(inspect.signature(Dataset.map_batches).bind(None, *words, **options).arguments)

    asked, script = SimpleNamespace(map_batches=map_batches), {"keep_ratio": 0.2}
    ray_data.answered(asked, "m", script, engines=3, gpus=2, batch_size=16, max_tokens=9, seed=1)
    settings = {"model": "m", "additional_config": {"script": script}, "seed": 1}
    assert told.pop("self") is None
    assert told == {
        "fn": ray_data.Engine,
        "fn_constructor_args": (settings, 9),
        "compute": ActorPoolStrategy(size=3),
        "num_gpus": 2,
        "batch_size": 16,
    }


def test_a_batch(engine):
    answering, given = engine
    batch = {
        "bytes": np.array([b"one", b"two"], dtype=object),
        "question": np.array(["Who?", "Where?"]),
        "path": np.array(["a.png", "b.jpg"]),
    }
    answered = answering(batch)
    assert {name: list(values) for name, values in answered.items()} == {
        "question": ["Who?", "Where?"],
        "path": ["a.png", "b.jpg"],
        "answer": ["Who?", "Where?"],
        "prompt_tokens": [7, 7],
    }
    assert given["settings"]["additional_config"] == {"script": {"keep_ratio": 0.2}}
    assert (given["sampling"].temperature, given["sampling"].max_tokens) == (0, 9)
    (picture, question) = given["chats"][1][0]["content"]
    assert base64.b64decode(picture["image_url"]["url"].partition(",")[2]) == b"two"
    assert question == {"type": "text", "text": "Where?"}
