"""A client of /v1/script/explain, whose errors say what to do."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any


class ExplainClient:
    """Asks one server.

    Args:
        url: of the server, with or without /v1.
        api_key: as it was started with, if it was.
        model: a name that it serves; None for the first.
    """

    def __init__(self, url: str, api_key: str | None, model: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url} is no address of a server; give one such as http://host:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self.api_key = api_key
        self.model = model

    def explain(
        self,
        pictures: Sequence[str],
        question: str,
        script: dict[str, Any],
        videos: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """What was done to each picture, and then to each video.

        Args:
            pictures, videos: URLs, such as data URLs.
            question: the text beside them.
            script: the settings to change.

        Raises:
            ValueError: the server cannot be asked, or has refused.
        """
        model = self.model or self._call("/v1/models")["data"][0]["id"]
        content: list[dict[str, Any]] = [
            {"type": kind, kind: {"url": url}}
            for kind, urls in (("image_url", pictures), ("video_url", videos))
            for url in urls
        ]
        content.append({"type": "text", "text": question})
        messages = [{"role": "user", "content": content}]
        body = {"model": model, "messages": messages, "script": script}
        answer = self._call("/v1/script/explain", body)
        return [*answer["images"], *answer["videos"]]

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise ValueError(self._refusal(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(
                f"{self.url} does not answer ({getattr(error, 'reason', error)}); give the address "
                "of a vllm serve that is up"
            ) from None

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        if error.code == 401:
            return f"{self.url} wants a key; give the one it was started with as --api-key"
        try:
            message = json.loads(error.read())["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = error.reason
        if error.code == 404 and message == "Not Found":
            return f"{self.url} does not explain; start it as vllm serve ... --script-explain"
        return f"{self.url} refuses: {message}"
