"""A client for the servers, and pictures to send."""

import base64
import functools
import io
import urllib.request
from dataclasses import dataclass

import numpy as np
import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families


@functools.lru_cache(maxsize=256)
def _picture(width, height, seed):
    """A PNG data URL: smooth colour gradients and noise, different for every seed."""
    rng = np.random.default_rng([width, height, seed])
    y, x = np.mgrid[:height, :width]
    waves = rng.uniform(0, 40, (3, 2)) / max(width, height)
    smooth = [np.sin(a * x + b * y) for a, b in waves]
    pixels = 127 + 90 * np.stack(smooth, -1) + rng.normal(0, 15, (height, width, 3))
    data = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


@pytest.fixture(scope="session")
def picture():
    """picture(width, height, seed=0) -> image part of a message."""
    return lambda width, height, seed=0: {
        "type": "image_url",
        "image_url": {"url": _picture(width, height, seed)},
    }


@dataclass(frozen=True)
class Answer:
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    prompt_tokens: int
    cached_tokens: int


@pytest.fixture(scope="session")
def ask():
    """ask(server, parts or messages, script=None, ...) -> Answer, greedy, 6 tokens, one retry.

    Other fields of the request have their own names.
    """

    def ask(server, messages, script=None, max_tokens=6, max_retries=1, **fields):
        if messages[0].get("role") is None:
            messages = [{"role": "user", "content": messages}]
        # One retry: vLLM asks for it when the image caches of its two processes have drifted apart,
        # which a request that fails half-way (see the fuzz test) can cause, with or without us.
        client = openai.OpenAI(
            base_url=server.url, api_key="none", max_retries=max_retries, timeout=300
        )
        extra = {"return_token_ids": True, "ignore_eos": True, **fields}
        if script is not None:
            extra["script"] = script
        reply = client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_tokens=max_tokens,
            temperature=0,
            logprobs=True,
            extra_body=extra,
        )
        (choice,) = reply.choices
        details = reply.usage.prompt_tokens_details
        return Answer(
            tuple(choice.token_ids),
            tuple(token.logprob for token in choice.logprobs.content),
            reply.usage.prompt_tokens,
            details.cached_tokens if details else 0,
        )

    return ask


@pytest.fixture(scope="session")
def metric():
    """metric(server, name, **labels) -> sum of the Prometheus samples that have those labels."""

    def metric(server, name, **labels):
        with urllib.request.urlopen(server.url.removesuffix("/v1") + "/metrics") as reply:
            families = text_string_to_metric_families(reply.read().decode())
        samples = [sample for family in families for sample in family.samples]
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    return metric
