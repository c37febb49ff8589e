"""The files of the playground, and the command that opens it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from vllm_script.config import CONVERSATIONS, RELEVANCE_SOURCES
from vllm_script.pruning import MODES
from vllm_script.server import playground, playground_command
from vllm_script.server.explain_client import ExplainClient
from vllm_script.server.launch import VllmServer

PAGE = Path(playground.__file__).with_name("page")


@pytest.fixture(scope="module")
def client():
    app = FastAPI()
    app.include_router(playground.router)
    return TestClient(app)


def test_files_are_served_under_a_strict_policy(client):
    kinds = {
        "": "text/html; charset=utf-8",
        "/page.css": "text/css; charset=utf-8",
        "/page.js": "text/javascript; charset=utf-8",
        "/scene.png": "image/png",
    }
    for name, kind in kinds.items():
        reply = client.get(f"/script{name}")
        assert (reply.status_code, reply.headers["content-type"]) == (200, kind)
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy and "http" not in policy
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert client.head(f"/script{name}").status_code == 200
    assert client.get("/script/").url.path == "/script"
    for path in ("/script/none.js", "/script/../playground.py", "/script/%2e%2e%2fflags.py"):
        assert client.get(path).status_code == 404


def test_the_page_names_nothing_that_lies_elsewhere():
    for file in PAGE.iterdir():
        text = file.read_text()
        assert "://" not in text and "//cdn" not in text, file.name
        assert not re.search(r"innerHTML|eval\(|localStorage|sessionStorage|cookie", text), (
            file.name
        )
        for name in re.findall(r'from "\./([\w.]+)"|"script/([\w.]+)"', text):
            name = "".join(name)
            assert name == "scene.png" or (PAGE / name).exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [("mode", MODES), ("relevance", RELEVANCE_SOURCES), ("conversation", CONVERSATIONS)],
)
def test_choices_are_those_of_the_settings(name, values):
    html = (PAGE / "page.html").read_text()
    options = re.search(f'<select id="{name}">(.*?)</select>', html, re.DOTALL).group(1)
    found = re.findall(r'<option(?: value="([\w-]*)")?>([\w-]*)', options)
    assert [value or text for value, text in found[1:]] == list(values)
    assert found[0] == ("", "as")  # the server's own setting, which is not sent


class PretendedVllm:
    """Stands for `VllmServer`; the user presses Ctrl-C at once."""

    url = "http://127.0.0.1:1234/v1"
    started: list = []

    def __init__(self, model, *flags, **options):
        self.started.append((model, flags, options["port"]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.started.append("stopped")

    def wait(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "model", "port", "more", "opened"),
    [
        ([], "script-demo", None, (), ["http://127.0.0.1:1234/script"]),
        (
            [
                "--model",
                "llava-next",
                "--no-open",
                "--port",
                "80",
                "--api-key",
                "x",
                "--",
                "--flag",
            ],
            *("llava-next", 80, ("--api-key", "x", "--flag"), []),
        ),
    ],
)
def test_the_command(vllm_script, monkeypatch, words, model, port, more, opened):
    addresses, started = [], []
    monkeypatch.setattr(PretendedVllm, "started", started)
    monkeypatch.setattr(playground_command, "VllmServer", PretendedVllm)
    monkeypatch.setattr("webbrowser.open", addresses.append)
    asked = []

    def explain(self, pictures, question, script):
        asked.append((self.url, self.api_key, script))
        raise ValueError("it takes no pictures")  # which is no reason to stop

    monkeypatch.setattr(ExplainClient, "explain", explain)
    status, out, _ = vllm_script("playground", *words)
    assert status == 0
    assert "the playground is at http://127.0.0.1:1234/script; Ctrl-C stops it" in out
    ours = ("--script-explain", "--enable-prompt-tokens-details", "--enforce-eager")
    assert started == [(model, (*ours, *more), port), "stopped"]
    assert addresses == opened
    assert asked == [("http://127.0.0.1:1234", "x" if more else None, {})]


def test_a_model_that_is_not_known(vllm_script):
    status, *_ = vllm_script("playground", "--model", "llama")
    assert status.startswith("vllm-script: error: the model llama is not known")


def test_a_server_that_ends_by_itself_says_why():
    server = VllmServer("model")
    server.log_path.write_text("ERROR out of memory\n")
    server._process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(RuntimeError, match="ended with status 3; (.|\n)*ERROR out of memory"):
        server.wait()
    server.log_path.unlink()
