"""Ray: its actors get the configuration whole, its servers answer as one, its data is pruned."""

import io
import os
import shlex
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import httpx
import openai
import psutil
import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs

import vllm_script
from vllm_script.benchmarks.common import data_url
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.benchmarks.scenes.questions import questions_of
from vllm_script.benchmarks.scenes.scene import scene_of
from vllm_script.benchmarks.scenes.splits import seed_of
from vllm_script.benchmarks.serving.cells import SCRIPT, Arm
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.serving.requests import Request, Size
from vllm_script.config import ScriptConfig
from vllm_script.server.launch import _free_port

from ...conftest import ENGINE_FLAGS, ENVIRONMENT

ray = pytest.importorskip("ray", reason="Ray is not installed; the extra `ray` has it")

PRUNING = ("--plugin", "script", "--keep-ratio", "0.11")
QUESTIONS = ["What is shown?", "How many people are there?", "Read the sign."]
PICTURES = 12


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Ray on this machine, whose actors work in a folder of their own."""
    elsewhere = {"working_dir": str(tmp_path_factory.mktemp("elsewhere"))}
    env = ENVIRONMENT | {"TRITON_INTERPRET": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    with mock.patch.dict(os.environ, env, clear=True):
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env=elsewhere)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors have no tests/
    yield
    ray.shutdown()


def worker_of(config):
    """What an actor of vLLM's Ray executor makes of a configuration, before it has a device."""
    from vllm.model_executor.model_loader.utils import get_model_architecture
    from vllm.v1.executor.ray_utils import RayWorkerWrapper

    from vllm_script.config import ScriptConfig

    wrapper = RayWorkerWrapper(rpc_rank=0)
    where = dict(local_rank=0, rank=0, distributed_init_method="tcp://127.0.0.1:1")
    wrapper.init_worker([{"vllm_config": config, **where}])
    model_config = wrapper.worker.vllm_config.model_config
    model, name = get_model_architecture(model_config)
    return {
        "cwd": os.getcwd(),
        "pid": os.getpid(),
        "model": (model.__module__, model.__name__, name),
        "settings": ScriptConfig.of(model_config),
        "observed": hasattr(wrapper.worker, "script_take_observations"),
    }


@pytest.mark.parametrize("family", ["llava-next", "qwen2.5-vl"])
def test_the_configuration_reaches_an_actor_in_another_folder(cluster, checkpoint, family):
    """Nobody there imports the plugin: vLLM loads it, as on a node that it has just come to."""
    script = {"keep_ratio": 0.2, "relevance": "none", "tau": 0.3, "conversation": "turn"}
    args = EngineArgs(str(checkpoint(family)), additional_config={"script": script})
    config = args.create_engine_config()
    found = ray.get(ray.remote(worker_of).remote(config))
    assert found["pid"] != os.getpid() and found["cwd"] != os.getcwd()
    assert found["model"][0].startswith("vllm_script.families.")
    assert found["model"][2] == config.model_config.architecture
    assert found["settings"] == ScriptConfig.of(config.model_config)
    assert found["settings"].keep_ratio == 0.2 and found["observed"]


@pytest.fixture(scope="module")
def served(cluster, checkpoint):
    """The address of Ray Serve, with two servers behind it."""
    from ray import serve

    from vllm_script.server.deploy.ray_serve import Options, app

    flags = shlex.join((*ENGINE_FLAGS, *PRUNING))
    port = _free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app(Options(model=str(checkpoint("llava-next")), flags=flags)))
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}/v1")
    serve.shutdown()


def processes():
    """The first process of each server of Ray's that is up."""
    own = psutil.Process()
    below = [process for process in own.children(recursive=True) if process.ppid() != own.pid]
    first = [process for process in below if "vllm.entrypoints.cli.main" in process.cmdline()[:3]]
    return [process for process in first if is_up(process)]


def address(process):
    """The address of a server, with /v1."""
    words = process.cmdline()
    return f"http://127.0.0.1:{words[words.index('--port') + 1]}/v1"


def is_up(process):
    try:
        return httpx.get(address(process).removesuffix("/v1") + "/health").status_code == 200
    except httpx.TransportError:
        return False


def requests(picture, seed):
    return [
        [picture(168, 168, seed=seed + number), {"type": "text", "text": question}]
        for question in QUESTIONS
        for number in range(PICTURES)
    ]


def answers(ask, server, asked):
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda parts: ask(server, parts, max_tokens=4), asked))


def same(answer, expected):
    """Whether two answers are the same, but for what float32 rounds."""
    assert answer.prompt_tokens == expected.prompt_tokens
    assert answer.logprobs[0] == pytest.approx(expected.logprobs[0], abs=1e-3)


@pytest.mark.slow
def test_it_answers_as_one_server(served, pruning_server, picture, ask, metric):
    asked = requests(picture, 700)
    for answer, expected in zip(
        answers(ask, served, asked), answers(ask, pruning_server, asked), strict=True
    ):
        same(answer, expected)
    servers = [SimpleNamespace(url=address(process)) for process in processes()]
    assert len(servers) == 2
    counted = Counter()
    for server in servers:
        assert metric(server, "vllm:request_success_total") > 0
        for kind in "hits", "misses":
            counted[kind] += metric(server, f"script_cache_{kind}_total", cache="features")
    # Whoever has answered the first question about a picture answers the others.
    assert counted["misses"] == PICTURES
    assert counted["hits"] == PICTURES * (len(QUESTIONS) - 1)


@pytest.mark.slow
def test_refusals_and_other_routes_are_vllms(served, picture):
    message = {"role": "user", "content": [picture(100, 60), {"type": "text", "text": "Why?"}]}
    body = {"model": "tiny", "messages": [message], "script": {"keep_ratio": 7}}
    reply = httpx.post(served.url + "/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400
    assert "keep_ratio" in reply.json()["error"]["message"]
    assert httpx.get(served.url + "/models").json()["data"][0]["id"] == "tiny"
    assert httpx.post(served.url + "/chat/completions", content=b"{", timeout=60).status_code == 400


@pytest.mark.slow
def test_answers_come_token_by_token(served, picture):
    client = openai.OpenAI(base_url=served.url, api_key="none", timeout=60)
    message = {"role": "user", "content": [picture(100, 60), {"type": "text", "text": "Why?"}]}
    stream = client.chat.completions.create(
        model="tiny", messages=[message], max_tokens=8, stream=True, extra_body={"ignore_eos": True}
    )
    assert len([chunk for chunk in stream if chunk.choices[0].delta.content is not None]) > 4


@pytest.mark.slow
def test_a_replica_is_killed_under_load(served, pruning_server, picture, ask):
    asked = requests(picture, 800)
    truth = answers(ask, pruning_server, asked)

    def outcome(parts):
        try:
            return ask(served, parts, max_tokens=4, max_retries=0)
        except openai.APIStatusError as error:
            assert error.status_code == 503, error
            assert error.response.headers["retry-after"] == "1"
        except openai.APIConnectionError as error:  # the answer has broken off
            cause = error.__cause__  # of httpx or httpx2, whichever openai has
            assert type(cause).__name__ in ("RemoteProtocolError", "ReadError"), cause
        return None

    victim = processes()[0]
    with ThreadPoolExecutor(4) as pool:
        outcomes = [pool.submit(outcome, parts) for parts in asked]
        while sum(each.done() for each in outcomes) < 8:
            time.sleep(0.05)
        os.kill(victim.ppid(), signal.SIGKILL)  # Ray's actor
        outcomes = [each.result() for each in outcomes]
    assert len(outcomes) - outcomes.count(None) > len(asked) // 2
    for answer, expected in zip(outcomes, truth, strict=True):
        if answer is not None:
            same(answer, expected)
    with pytest.raises(ProcessLookupError):  # in the end nothing of its server is left
        for _ in range(100):
            os.killpg(victim.pid, 0)
            time.sleep(0.1)
    deadline = time.monotonic() + 180
    while len(processes()) < 2:
        assert time.monotonic() < deadline
        time.sleep(1)
    for answer, expected in zip(answers(ask, served, asked), truth, strict=True):
        same(answer, expected)


@pytest.mark.slow
def test_data_of_100_pictures(cluster):
    """script-demo answers as it does when served, and no prompt has more than what is kept."""
    from vllm_script.server.deploy.ray_data import answered

    folder = str(Path(vllm_script.__file__).parent / "script_demo")
    expected, rows, right, lengths = Expected(folder), [], [], []
    for index in range(100):
        scene = scene_of(seed_of("test", index))
        pixels, question = draw(scene)[0], questions_of(scene)[0]
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        rows.append({"bytes": file.getvalue(), "question": question.text, "number": index})
        right.append(question.answer)
        size = Size(scene.width, scene.height)
        kept = expected.kept_by(Arm(SCRIPT, 0.11), size)
        lengths.append(kept + expected.text_tokens(Request(question.text, size, data_url(pixels))))
    options = dict(gpus=0, batch_size=32, max_tokens=6, enforce_eager=True, dtype="float32")
    answers = answered(ray.data.from_items(rows), folder, {"keep_ratio": 0.11}, **options)
    found = sorted(answers.take_all(), key=lambda row: row["number"])
    assert [row["number"] for row in found] == list(range(100))
    assert [row["prompt_tokens"] for row in found] == lengths
    assert sum(row["answer"] == answer for row, answer in zip(found, right, strict=True)) >= 90
    assert all("bytes" not in row for row in found)
