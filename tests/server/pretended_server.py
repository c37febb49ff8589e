"""A pretended `vllm serve --plugin script`, which answers by rule and keeps what it was asked.

A question is "question N". It is answered with "right" unpruned but for every tenth, and as `loses`
says pruned.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class PretendedServer:
    """Answers at `url` for the length of a `with` block.

    Args:
        loses: of the script field and a question's number, whether it then gets another answer.
        prunes: whether it reads the script field.
        refuses: of the script field, the message with which it is refused, or None.
        key: an API key that it wants.
        seconds: that an answer takes.
    """

    def __init__(self, loses=None, prunes=True, refuses=None, key=None, seconds=0.0):
        self.loses = loses or (lambda script, number: False)
        self.refuses = refuses or (lambda script: None)
        self.prunes, self.key, self.seconds = prunes, key, seconds
        self.answered = Counter()
        """(question, script field as JSON) -> how often; without those that were streamed."""
        self.bodies = []

    def __enter__(self):
        pretended = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send({"object": "list", "data": [{"id": "tiny", "object": "model"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if pretended.key not in (None, self.headers["Authorization"].split()[-1]):
                    self.refuse(401, "Unauthorized")
                elif words := pretended.refuses(body["script"]):
                    self.refuse(400, words)
                else:
                    self.answer(body)

            def answer(self, body):
                pretended.bodies.append(body)
                time.sleep(pretended.seconds)
                text, tokens = pretended.reply(body)
                usage = {"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": tokens}
                if body.get("stream"):
                    return self.stream(text)
                pretended.answered[question_of(body), json.dumps(body["script"])] += 1
                message = {"role": "assistant", "content": text}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self.send(reply_of("chat.completion", [choice]) | {"usage": usage})

            def stream(self, text):
                choice = {"index": 0, "delta": {"content": text}}
                chunk = json.dumps(reply_of("chat.completion.chunk", [choice]))
                self.send_bytes(f"data: {chunk}\n\ndata: [DONE]\n\n", "text/event-stream")

            def refuse(self, status, words):
                self.send({"error": {"message": words, "code": status}}, status)

            def send(self, content, status=200):
                self.send_bytes(json.dumps(content), "application/json", status)

            def send_bytes(self, text, kind, status=200):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def reply(self, body):
        """The answer, and the tokens of the prompt."""
        number, script = int(question_of(body).split()[-1]), body["script"]
        ratio = script["keep_ratio"] if self.prunes else 1.0
        right = number % 10 > 0 and not (ratio < 1 and self.loses(script, number))
        return "right" if right else f"wrong at {ratio:g}", 20 + round(1000 * ratio)


def question_of(body):
    """The text beside the picture."""
    return body["messages"][-1]["content"][-1]["text"]


def reply_of(kind, choices):
    """A reply as the client expects it."""
    return {"id": "1", "object": kind, "created": 0, "model": "tiny", "choices": choices}
