"""Every family behind its server, against stock vLLM, over HTTP."""

import base64
import io
import urllib.request

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from vllm_script.explain.film import FRAME_WIDTH
from vllm_script.server.launch import VllmServer

pytestmark = pytest.mark.slow

FLAGS = (
    *("--enforce-eager", "--block-size", "32", "--max-model-len", "2048"),
    *("--served-model-name", "tiny", "--enable-prompt-tokens-details"),
    *("--limit-mm-per-prompt", '{"image": 3, "video": 1}', "--num-gpu-blocks-override", "256"),
    "--trust-remote-code",  # for the configuration of InternVL in its own format
)
BFLOAT16 = ("qwen3.5", "qwen3.5-moe")
"""Families that vLLM has on CPUs in bfloat16 alone; the others are served in float32."""
ANSWER = {"role": "assistant", "content": "x"}
TEXT = "Describe what is shown here, please. " * 6


def encoded(seed, kind, width=280, height=168):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return base64.b64encode(data.getvalue()).decode()


def image(seed):
    url = f"data:image/png;base64,{encoded(seed, 'PNG')}"
    return {"type": "image_url", "image_url": {"url": url}}


def video(seed):
    frames = ",".join(encoded([seed, frame], "JPEG", 140, 84) for frame in range(6))
    return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}


def user(*parts):
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


def ask(server, *messages, script=None):
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=1, timeout=300)
    extra = {"ignore_eos": True, "return_token_ids": True}
    extra |= {"script": script} if script else {}
    return client.chat.completions.create(
        model="tiny",
        messages=list(messages),
        max_tokens=6,
        temperature=0,
        logprobs=True,
        extra_body=extra,
    )


def answer_of(reply):
    (choice,) = reply.choices
    return choice.token_ids, [token.logprob for token in choice.logprobs.content]


@pytest.fixture(scope="module")
def folder(family, family_checkpoint):
    return family_checkpoint(family)


@pytest.fixture(scope="module")
def flags(family):
    return (*FLAGS, "--dtype", "bfloat16" if family in BFLOAT16 else "float32")


@pytest.fixture(scope="module")
def same_answer(family):
    """same_answer(log probabilities, others): of one prompt, cut into steps in two ways.

    In bfloat16 the second token may be another one already.
    """
    compared, rounding = (1, 0.1) if family in BFLOAT16 else (None, 1e-3)
    return lambda one, two: one[:compared] == pytest.approx(two[:compared], abs=rounding)


@pytest.fixture(scope="module")
def items(family, known_family):
    """What the model takes: functions of a seed."""
    makers = {"image": image, "video": video}
    return [makers[modality] for modality in known_family(family).modalities]


@pytest.fixture(scope="module")
def conversations(items):
    alone = [[user(item(0), TEXT)] for item in items]
    if image not in items:
        return [*alone, [user(video(0), TEXT), ANSWER, user("Why?")]]
    several = [user(image(0), image(1), TEXT), ANSWER, user(image(2), "Why?")]
    mixed = [[user(image(0), video(1), TEXT)]] if video in items else []
    return [*alone, several, *mixed]


@pytest.fixture(scope="module")
def stock(folder, conversations, flags):
    """Answers of vLLM without the plugin."""
    env = {"VLLM_PLUGINS": "none", "TRITON_INTERPRET": "0"}
    with VllmServer(folder, *flags, env=env) as server:
        yield [ask(server, *messages) for messages in conversations]


@pytest.fixture(scope="module")
def server(folder, stock, flags):
    pruned = ["--plugin", "script", "--keep-ratio", "0.3", "--script-explain"]
    pruned += ["--script-relevance", "embedding"]  # so that the question has a say
    with VllmServer(folder, *flags, *pruned, env={"TRITON_INTERPRET": "0"}) as server:
        yield server


def test_off_is_stock(server, stock, conversations):
    for messages, expected in zip(conversations, stock, strict=True):
        reply = ask(server, *messages, script={"keep_ratio": 1.0})
        assert reply.usage.prompt_tokens == expected.usage.prompt_tokens
        assert answer_of(reply)[1] == pytest.approx(answer_of(expected)[1], abs=1e-3)
        assert answer_of(reply)[0] == answer_of(expected)[0]


def test_fewer_tokens_and_prefixes_shared(server, stock, conversations, same_answer):
    for messages, whole in zip(conversations, stock, strict=True):
        reply = ask(server, *messages)
        assert reply.usage.prompt_tokens < whole.usage.prompt_tokens
        again = ask(server, *messages)
        cached = again.usage.prompt_tokens_details.cached_tokens
        assert cached == (reply.usage.prompt_tokens - 1) // 32 * 32 > 0
        assert same_answer(answer_of(again)[1], answer_of(reply)[1])


def test_videos_are_in_the_metrics(server, items):
    if video not in items:
        pytest.skip("this family has no videos to prune; tests/real/server/ counts images")

    def metric(name):
        with urllib.request.urlopen(server.url.removesuffix("/v1") + "/metrics") as reply:
            lines = reply.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    names = ("script_videos_total", "script_images_total", "script_visual_tokens_in_total")
    names += ("script_visual_tokens_kept_total", "script_keep_ratio_count")
    whole = ask(server, user(video(20), TEXT), script={"keep_ratio": 1.0})
    before = [metric(name) for name in names]
    replies = [ask(server, user(video(20), TEXT)) for _ in range(2)]  # vLLM's cache has the second
    videos, images, tokens, kept, ratios = (
        metric(name) - old for name, old in zip(names, before, strict=True)
    )
    assert (videos, images, ratios) == (2, 0, 2)
    dropped = sum(whole.usage.prompt_tokens - reply.usage.prompt_tokens for reply in replies)
    assert tokens - kept == dropped > 0


def test_explain(server, items):
    body = {"model": "tiny", "messages": [user(*(item(20) for item in items), TEXT)]}
    reply = httpx.post(f"{server.url}/script/explain", json=body, timeout=300)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    found = answer["images"] + answer["videos"]
    assert len(found) == len(items)
    for shown in found:
        assert shown["kept"] == len(shown["kept_patches"]) < shown["visual_tokens"]
        num_patches = sum(len(view["boxes"]) for view in shown["views"])
        num_patches *= shown.get("num_frames", 1)
        assert max(shown["kept_patches"]) < num_patches == len(shown["patch_relevance"])
        assert decoded(shown["png"]).width > FRAME_WIDTH
    if video in items:
        (shown,) = answer["videos"]
        assert decoded(shown["webp"]).n_frames == shown["num_frames"] == len(shown["frames"])
        whole = body | {"script": {"keep_ratio": 1.0}}
        reply = httpx.post(f"{server.url}/script/explain", json=whole, timeout=300)
        (shown,) = reply.json()["videos"]
        assert shown["left_whole"] and shown["kept"] == shown["visual_tokens"]


def decoded(data):
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_another_question_shares_nothing_of_the_item(server, items):
    for item in items:
        ask(server, user(item(10), "What? " + TEXT))
        other = ask(server, user(item(10), "Why? " + TEXT))
        assert (other.usage.prompt_tokens_details.cached_tokens or 0) <= 32


@pytest.mark.parametrize("script", [{"keep_ratio": 7}, {"mode": "best"}, {"tau": 1}, []])
def test_mistakes(server, items, script):
    with pytest.raises(openai.BadRequestError, match="script|keep_ratio|mode"):
        ask(server, user(items[0](0), TEXT), script=script or [1])


def test_what_is_no_image_is_refused(server, items):
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError):
        ask(server, user(broken, TEXT))
    assert ask(server, user(items[0](0), TEXT)).choices
