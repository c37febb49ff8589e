"""What a server under vLLM's strictest checks is asked, and what is made of its log."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import vllm
from vllm import envs
from vllm.engine.arg_utils import EngineArgs
from vllm.utils import gpu_sync_debug, jit_monitor

from vllm_script.benchmarks import strict_serving
from vllm_script.benchmarks.serving.expected import Expected
from vllm_script.benchmarks.soaking.mix import MAX_IMAGES
from vllm_script.benchmarks.strict_serving import about_videos, asked, in_log, server_flags, watched
from vllm_script.pruning import MODES
from vllm_script.server.aliases import repository_of

ACTIVATED = "INFO [jit_monitor.py:90] Kernel JIT monitor activated; ... will use mode={}."


@pytest.fixture(scope="module")
def requests():
    return list(asked(Expected(repository_of("script-demo")), 0))


def parts(request, kind):
    """The pictures or texts of a request."""
    contents = [message["content"] for message in request.body["messages"]]
    found = (part for content in contents if isinstance(content, list) for part in content)
    return [json.dumps(part) for part in found if part["type"] == kind]


def test_everything_is_asked(requests):
    pictures = [parts(request, "image_url") for request in requests]
    assert {len(each) for each in pictures} > {1, 2, MAX_IMAGES}
    scripts = [request.body.get("script") or {} for request in requests]
    assert {script.get("mode", "script") for script in scripts} == set(MODES)
    assert {script.get("relevance") for script in scripts} > {"embedding", "none"}
    kept = {request.pruned for request in requests}
    assert len(kept) > 20  # pictures of many sizes


def test_known_pictures_are_asked_about_again(requests):
    seen = set()
    again = 0
    for request in requests:
        for picture in parts(request, "image_url"):
            texts = tuple(parts(request, "text"))
            again += any(known == picture and other != texts for known, other in seen)
            seen.add((picture, texts))
    assert again > 10


def test_videos_are_asked_about(checkpoint):
    requests = list(about_videos(Expected(str(checkpoint("qwen2.5-vl"))), 0))
    videos = {video for request in requests for video in parts(request, "video_url")}
    assert len(videos) == len(requests) == 4
    assert len({request.prompt_tokens for request in requests}) == 2


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("WARNING 11-25 [utils.py:1] nothing of ours", True),
        ("ERROR 11-25 [core.py:1] RuntimeError: GPU<->CPU sync detected - avoid it", False),
        ("WARNING Triton kernel JIT compilation during inference: _select_kernel.", False),
        ("WARNING Script's greedy_map runs in PyTorch on cuda:0, which is slower", False),
        ("WARNING Script launches its kernels phase by phase on cuda:0, which", False),
    ],
)
def test_log(line, passes):
    check = in_log(f"INFO started\n{line}\n")
    assert check.passed == passes and (passes or check.found == line)


@pytest.mark.parametrize(
    ("waits", "log", "passes"),
    [
        ("error", ACTIVATED.format("error"), True),
        ("error", ACTIVATED.format("warn"), False),
        ("error", "", False),
        ("None", ACTIVATED.format("error"), False),
    ],
)
def test_what_nobody_watched_is_no_pass(monkeypatch, waits, log, passes):
    done = subprocess.CompletedProcess([], 0, f"INFO something\n{waits}\n", "")
    monkeypatch.setattr(strict_serving.subprocess, "run", lambda *_, **__: done)
    assert watched(log).passed == passes


def test_vllm_is_asked_in_its_own_words():
    (name,) = strict_serving.WATCHING
    assert name in envs.environment_variables and hasattr(gpu_sync_debug, "_SYNC_CHECK_MODE")
    source = Path(jit_monitor.__file__).read_text()
    assert '"Kernel JIT monitor activated; ' in source and "use mode=%s." in source
    assert "during inference: %s" in source
    flags = server_flags(["image"], on_cpu=False)
    assert flags[flags.index("--jit-monitor-mode") + 1] == "error"
    assert hasattr(EngineArgs, "jit_monitor_mode")
    assert "--enforce-eager" not in flags  # vLLM would not look for compilation
    worker = (Path(vllm.__file__).parent / "v1" / "worker" / "gpu_worker.py").read_text()
    assert "enable_jit_warmup" in worker and "activate_jit_monitor(" in worker


@pytest.fixture
def stock(monkeypatch, requests):
    """What a server that only seems to be one was started with and asked, and its log to be."""
    seen = SimpleNamespace(log="", asked=[], env={})

    class Server:
        url = "http://127.0.0.1:1/v1"

        def __init__(self, model, *flags, env, progress):
            seen.env = env

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def log(self):
            return seen.log

    async def ask_all(root, requests, at_once):
        seen.asked += requests

    monkeypatch.setattr(strict_serving, "VllmServer", Server)
    monkeypatch.setattr(strict_serving, "ask_all", ask_all)
    monkeypatch.setattr(strict_serving, "asked", lambda expected, seed: requests)
    return seen


@pytest.mark.parametrize(
    ("log", "words"),
    [("INFO well", "none: the errors come with the plugin"), ("ERROR sync", "checks: ERROR sync.")],
)
def test_stock_vllm_is_asked_after_an_error(stock, log, words):
    stock.log = log
    found = strict_serving.stock_log(SimpleNamespace(model="m"), [])
    assert stock.asked and not any("script" in request.body for request in stock.asked)
    assert stock.env["VLLM_PLUGINS"] == "" and stock.env["VLLM_GPU_SYNC_CHECK"] == "error"
    assert words in strict_serving.report({}, [], found)


@pytest.mark.slow  # starts a server of its own
def test_all_but_the_gpu(tmp_path):
    command = [sys.executable, strict_serving.__file__, "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    checks = [json.loads(line) for line in (tmp_path / "checks.jsonl").open()]
    failed = [check["name"] for check in checks if not check["passed"]]
    assert failed == ["vLLM watched"], run.stdout + run.stderr[-2000:]
    assert run.returncode == 1
    assert [check["found"] for check in checks][-1] == "'blue', '4'"
    assert "requests, 0 wrong" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "server.log").stat().st_size and not (tmp_path / "stock.log").exists()
