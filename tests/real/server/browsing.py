"""A browser's visit to the playground, over a line to the server that can be cut."""

import contextlib
import json
import re
import socket
import threading

import pytest

from vllm_script.server.launch import _free_port

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: .ci/install.py")
expect = sync_api.expect
expect.set_options(timeout=30_000)  # ms: the server answers on the cores that draw the page

KEY = "the-key"


class Line:
    """A line to a server, which can be cut: for the browser the server is then gone."""

    def __init__(self, port):
        self._port, self._own, self._open = port, _free_port(), []
        self.url = f"http://127.0.0.1:{self._own}"
        self.connect()

    def connect(self):
        self._listener = socket.create_server(("127.0.0.1", self._own))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self):
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                ends = listener.accept()[0], socket.create_connection(("127.0.0.1", self._port))
                self._open.extend(ends)
                for one, other in (ends, ends[::-1]):
                    threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(one, other):
    with contextlib.suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


class Visit:
    """One visitor's page, and what it asked the server."""

    def __init__(self, browser, line, fragment="", **context):
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, **context)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.requests, self.explained, self.problems = [], [], []
        self.page.on("request", lambda request: self.requests.append(request))
        self.page.on("response", lambda response: self._keep(response))
        self.page.on("pageerror", lambda error: self.problems.append(error))
        self.page.on("console", lambda message: self._hear(message))
        self.page.goto(f"{line.url}/script{fragment}")

    def _hear(self, message):
        """The console tells violations of the policy; and what a server refuses, which is none."""
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def _keep(self, response):
        if response.url.endswith("/v1/script/explain") and response.status == 200:
            self.explained.append(response)

    def times(self, path):
        """When each request to a route was sent, and when it had ended: ms."""
        timings = [each.timing for each in self.requests if each.url.endswith(path)]
        return [(each["startTime"], each["startTime"] + each["responseEnd"]) for each in timings]

    def bodies(self, path):
        """Bodies of the requests to a route."""
        asked = [each for each in self.requests if each.url.endswith(path)]
        return [json.loads(each.post_data) for each in asked if each.post_data]

    def image(self, index=-1):
        """The first image of an explanation that the server sent."""
        return self.explained[index].json()["images"][0]

    def type_key(self, key=KEY):
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Use this key").click()

    def open(self):
        """Type the key, and take the sample picture."""
        self.type_key()
        expect(self.page.locator("#model")).to_contain_text("script-demo")
        self.page.get_by_role("button", name="Use the sample picture").click()
        expect(self.page.get_by_role("listitem").filter(has_text="scene.png")).to_be_visible()

    def ask(self, question):
        self.page.get_by_label("Question", exact=True).fill(question)
        self.page.get_by_role("button", name="Ask").click()

    def answered(self):
        expect(self.page.locator("#status")).to_have_text("Answered.")

    def text(self, side):
        return self.page.locator(f"#{side} .answer").inner_text().strip()

    def number(self, side, name):
        row = self.page.locator(f"#{side} dt", has_text=re.compile(f"^{name}$"))
        return int(row.locator("xpath=following-sibling::dd[1]").inner_text().replace(",", ""))

    def figure(self, caption):
        return self.page.locator("#shown figure").filter(has_text=caption)

    def close(self):
        self.context.close()
        assert self.problems == []
