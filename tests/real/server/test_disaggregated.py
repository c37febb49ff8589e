"""An encoder instance and a language model behind our proxy answer as one server does."""

import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from vllm_script.server.launch import _free_port

pytestmark = pytest.mark.slow

QUESTIONS = ["What is shown?", "How many people are there?", "Read the sign.", "Where is the car?"]
PRUNING = ("--plugin", "script", "--keep-ratio", "0.11", "--script-explain")


@contextmanager
def proxied(encoder, model):
    """An address behind which an encoder and a language model are."""
    port = _free_port()
    command = [sys.executable, "-P", "-m", "vllm_script.server.command", "proxy"]
    command += ["--encoder", encoder.url, "--server", model.url, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(60):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}/v1")
    finally:
        process.terminate()
        process.wait()


class Pair:
    """An encoder instance, a language model, the folder between them, and a proxy before them."""

    def __init__(self, vllm_server, family, folder, *flags):
        self.folder = folder
        self._server, self._family, self._flags = vllm_server, family, flags
        self._stack = ExitStack()

    def start(self, role, port=None):
        transfer = {"ec_connector": "ECExampleConnector", "ec_role": role}
        transfer["ec_connector_extra_config"] = {"shared_storage_path": str(self.folder)}
        flags = ("--ec-transfer-config", json.dumps(transfer), *self._flags)
        server = self._server(self._family, *flags, port=port)
        return self._stack.enter_context(server)

    def __enter__(self):
        with ThreadPoolExecutor(2) as pool:
            self.encoder, self.model = pool.map(self.start, ("ec_producer", "ec_consumer"))
        self.proxy = self._stack.enter_context(proxied(self.encoder, self.model))
        return self

    def __exit__(self, *error):
        self._stack.close()

    def bytes_moved(self):
        return sum(file.stat().st_size for file in self.folder.glob("*/*.safetensors"))


@pytest.fixture(scope="module")
def pair(vllm_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    with Pair(vllm_server, "llava-next", folder, *PRUNING) as pair:
        yield pair


def random_request(rng, picture):
    """Parts and settings: one picture or two, known or not, whole or pruned."""
    images = [
        picture(*rng.choice([(168, 168), (100, 60), (336, 200)]), seed=rng.randrange(3))
        for _ in range(rng.choice([1, 1, 2]))
    ]
    script = {
        "keep_ratio": rng.choice([0.11, 0.11, 0.3, 0.6, 1.0]),
        "relevance": rng.choice(["clip", "embedding", "none"]),
    }
    return [*images, {"type": "text", "text": rng.choice(QUESTIONS)}], script


def same(answer, expected):
    """Whether two answers are the same, but for what float32 rounds."""
    assert answer.prompt_tokens == expected.prompt_tokens
    steps = zip(answer.token_ids, answer.logprobs, strict=True)
    for ours, theirs in zip(
        steps, zip(expected.token_ids, expected.logprobs, strict=True), strict=True
    ):
        assert ours[1] == pytest.approx(theirs[1], abs=1e-3)
        if ours[0] != theirs[0]:  # a tie to within 1e-3: what follows has another prefix
            return


def explained(server, parts, script):
    """The kept patches of each item, as explained by a server."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "script": script}
    reply = httpx.post(server.url + "/script/explain", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return [
        item.get("kept_patches") for kind in ("images", "videos") for item in reply.json()[kind]
    ]


def check_requests(pair, server, ask, requests):
    """Ask a pair and one server the same."""

    def answers(where):
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda request: ask(where, *request, max_tokens=4), requests))

    for answer, expected in zip(answers(pair.proxy), answers(server), strict=True):
        same(answer, expected)
    for parts, script in requests[::10]:
        if script["keep_ratio"] < 1:
            assert explained(pair.encoder, parts, script) == explained(server, parts, script)


def test_it_answers_as_one_server(pair, pruning_server, picture, ask, metric):
    rng = random.Random(3)
    requests = [random_request(rng, picture) for _ in range(20)]
    check_requests(pair, pruning_server, ask, requests)
    assert metric(pair.model, "script_encoder_seconds_count") == 0
    assert metric(pair.encoder, "script_encoder_seconds_count") > 0


def test_200_requests(pair, pruning_server, picture, ask, metric):
    rng = random.Random(4)
    requests = [random_request(rng, picture) for _ in range(200)]
    check_requests(pair, pruning_server, ask, requests)
    assert metric(pair.model, "script_encoder_seconds_count") == 0


def test_a_new_question_is_answered_from_the_encoders_cache(pair, picture, ask, metric):
    image = picture(168, 168, seed=70)
    before = metric(pair.encoder, "script_encoder_seconds_count")
    for question in QUESTIONS:
        ask(pair.proxy, [image, {"type": "text", "text": question}], {"relevance": "embedding"})
    assert metric(pair.encoder, "script_encoder_seconds_count") == before + 1


def test_only_what_is_kept_travels(pair, picture, ask):
    moved = {}
    for ratio in 0.11, 1.0:
        before = pair.bytes_moved()
        parts = [picture(336, 336, seed=71), {"type": "text", "text": QUESTIONS[0]}]
        ask(pair.proxy, parts, {"keep_ratio": ratio})
        moved[ratio] = pair.bytes_moved() - before
    assert 0 < 8 * moved[0.11] <= moved[1.0]


def test_refusals_of_an_encoder_reach_the_client(pair, picture):
    message = {"role": "user", "content": [picture(100, 60), {"type": "text", "text": "Why?"}]}
    body = {"model": "tiny", "messages": [message], "script": {"keep_ratio": 7}}
    reply = httpx.post(pair.proxy.url + "/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400
    assert "keep_ratio" in reply.json()["error"]["message"]
    assert httpx.get(pair.proxy.url + "/models").json()["data"][0]["id"] == "tiny"


def test_one_uuid_for_two_pictures_ends_one_request_alone(pair, picture, ask):
    """The rows of the first one are not those that the second one's prompt has places for."""
    text = {"type": "text", "text": QUESTIONS[0]}
    small, large = ({**picture(*size), "uuid": "same"} for size in [(100, 60), (336, 336)])

    def post(server, picture):
        message = {"role": "user", "content": [picture, text]}
        body = {"model": "tiny", "messages": [message], "max_tokens": 2}
        return httpx.post(server.url + "/chat/completions", json=body, timeout=60)

    assert post(pair.encoder, small).status_code == 200
    reply = post(pair.model, large)
    assert reply.status_code == 500, reply.text
    assert "a uuid must stand for one picture alone" in pair.model.log()
    ask(pair.model, [picture(100, 60), text])


def test_other_settings_are_found_out_at_the_first_request(pair, picture):
    terms = pair.folder / "script-terms.json"
    own = terms.read_text()
    other = json.loads(own)
    other["server"], other["terms"]["keep_ratio"] = "another", 0.5
    message = {"role": "user", "content": [picture(100, 60), {"type": "text", "text": "Why?"}]}
    body = {"model": "tiny", "messages": [message], "max_tokens": 1}
    try:
        terms.write_text(json.dumps(other))
        for server in pair.encoder, pair.model:
            reply = httpx.post(server.url + "/chat/completions", json=body, timeout=60)
            assert reply.status_code == 500
            words = reply.json()["error"]["message"]
            assert "another" in words
            assert "keep_ratio is 0.11 here and 0.5 there" in words
    finally:
        terms.write_text(own)
    reply = httpx.post(pair.model.url + "/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200


@pytest.mark.parametrize("side", ["encoder", "model"])
def test_either_side_is_killed_in_the_middle_of_requests(pair, pruning_server, picture, ask, side):
    role = {"encoder": "ec_producer", "model": "ec_consumer"}[side]
    rng = random.Random(side)
    requests = [random_request(rng, picture) for _ in range(60)]
    requests = [([*p[:-1], {"type": "text", "text": p[-1]["text"] + side}], s) for p, s in requests]
    truth = [ask(pruning_server, *request, max_tokens=4) for request in requests]

    def outcome(request):
        started = time.monotonic()
        try:
            return ask(pair.proxy, *request, max_tokens=4)
        except (openai.APIStatusError, openai.APIConnectionError) as error:
            assert getattr(error, "status_code", 503) in (500, 502, 503), error
            return None
        finally:
            assert time.monotonic() - started < 60

    victim = getattr(pair, side)
    with ThreadPoolExecutor(4) as pool:
        outcomes = [pool.submit(outcome, request) for request in requests]
        while sum(each.done() for each in outcomes) < 8:
            time.sleep(0.05)
        os.killpg(victim._process.pid, signal.SIGKILL)
        outcomes = [each.result() for each in outcomes]
    assert outcomes.count(None) > 0
    assert len(outcomes) - outcomes.count(None) >= 8
    for answer, expected in zip(outcomes, truth, strict=True):
        if answer is not None:
            same(answer, expected)
    setattr(pair, side, pair.start(role, port=victim.port))
    for request, expected in zip(requests, truth, strict=True):
        same(ask(pair.proxy, *request, max_tokens=4), expected)


def video(seed):
    """A video of six frames of noise, as a message's part."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(6):
        data = io.BytesIO()
        pixels = rng.integers(0, 255, (84, 140, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data, "JPEG")
        frames.append(base64.b64encode(data.getvalue()).decode())
    return {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{','.join(frames)}"}}


def test_videos_and_their_positions(vllm_server, picture, ask, metric, tmp_path):
    """Rows of Qwen2.5-VL carry positions, which the language model's side reads."""
    flags = (*PRUNING, "--max-model-len", "2048", "--script-cache-gb", "0.1")
    rng = random.Random(5)
    requests = []
    for _ in range(40):
        parts, script = random_request(rng, picture)
        if script["relevance"] == "clip":
            script["relevance"], parts[0] = "embedding", video(rng.randrange(4))
        requests.append((parts, script))
    with (
        vllm_server("qwen2.5-vl", *flags) as server,
        Pair(vllm_server, "qwen2.5-vl", tmp_path, *flags) as pair,
    ):
        check_requests(pair, server, ask, requests)
        assert metric(pair.model, "script_encoder_seconds_count") == 0
