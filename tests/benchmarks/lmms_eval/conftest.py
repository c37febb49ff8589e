"""A pretended server, and the plugin, which is lmms-eval's and not installed here."""

import base64
import http.server
import io
import json
import sys
import threading

import pytest
from PIL import Image

from vllm_script.benchmarks.lmms_eval.environment import PLUGIN

sys.path.append(str(PLUGIN))

PLACEHOLDER, WHOLE = 7, 100
"""The token that stands for a picture, and how many of them an unpruned one takes."""


class FakeServer(http.server.ThreadingHTTPServer):
    """Answers chat completions and /tokenize as vLLM would, and remembers what it was asked.

    Attributes:
        answer: question -> answer; an int is an HTTP status instead.
        requests: bodies of chat completions, in the order in which they came.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.answer = [], lambda question: "yes"
        self.tokenizes = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def questions(self):
        """Texts of the chat completions, in order."""
        return [text_of(body) for body in self.requests]


def text_of(body):
    (message,) = body["messages"]
    return next(part["text"] for part in message["content"] if part["type"] == "text")


def parts_of(body, kind):
    (message,) = body["messages"]
    return [part[kind]["url"] for part in message["content"] if part["type"] == kind]


def picture_in(url):
    """The picture in a data URL."""
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


class Handler(http.server.BaseHTTPRequestHandler):
    """The two routes."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            known = self.server.tokenizes
            return self.reply(200, {"tokens": prompt(body)}) if known else self.reply(404, {})
        self.server.requests.append(body)
        answer = self.server.answer(text_of(body))
        if isinstance(answer, int):
            return self.reply(answer, {"error": {"message": f"refused with {answer}"}})
        ids = prompt(body)
        choice = {"index": 0, "message": {"role": "assistant", "content": answer}}
        usage = {"prompt_tokens": len(ids), "completion_tokens": 2, "total_tokens": len(ids) + 2}
        shown = {"prompt_token_ids": ids} if body.get("return_token_ids") else {}
        self.reply(200, {"choices": [choice], "usage": usage} | shown)

    def reply(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def prompt(body):
    """Token ids: some of text, and for each picture or video as many as its `script` field says."""
    script = body.get("script") or {}
    kept = script.get("visual_token_budget") or round(WHOLE * script.get("keep_ratio", 1.0))
    media = len(parts_of(body, "image_url")) + len(parts_of(body, "video_url"))
    return [1, 2, 3, *[PLACEHOLDER] * kept * media, 4]


@pytest.fixture
def fake_server():
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
