"""Ask an OpenAI-compatible endpoint every question in every setting, and keep the answers.

Settings take turns within a picture, so that a run that is stopped early has asked them all
equally often, and what drifts on a machine drifts for all of them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import openai
from tqdm import tqdm

from ..common import appended_lines, read_lines
from .settings import BLIND, Setting

Answers = dict[tuple[str, str], dict[str, Any]]
"""(item id, setting) -> {"answer": text, "prompt_tokens": int}, and "first", if it was asked for:
the probabilities of the likeliest first tokens."""
TOP_TOKENS = 20
"""The likeliest first tokens that an answer comes with, as many as vLLM gives by default."""


class Asked(Protocol):
    """What can be asked: a question about a picture, or a request that somebody once made."""

    @property
    def id(self) -> str:
        """Its name, of which there is one."""

    @property
    def request(self) -> dict[str, Any]:
        """Body of the chat request: `messages`, and what else goes with them."""


def read_answers(path: Path, first_tokens: bool = False) -> Answers:
    """Answers of an earlier run; none if there was none. A line cut short is asked again.

    Args:
        first_tokens: so are answers without the probabilities of first tokens.
    """
    entries = [entry for entry in read_lines(path) if "first" in entry or not first_tokens]
    return {(entry["item"], entry["setting"]): entry for entry in entries}


class Endpoint:
    """Where to ask, and how."""

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str,
        max_tokens: int,
        stock: bool,
        first_tokens: bool = False,
    ) -> None:
        """How to ask.

        Args:
            stock: the endpoint is not ours, so requests have no `script` field.
            first_tokens: ask for the probabilities of the likeliest first tokens too.
        """
        self.client = openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=2, timeout=600)
        self.model, self.max_tokens, self.stock = model, max_tokens, stock
        self.logprobs: dict[str, Any] = (
            {"logprobs": True, "top_logprobs": TOP_TOKENS} if first_tokens else {}
        )

    async def ask(self, item: Asked, setting: Setting) -> dict[str, Any]:
        """The answer to one question in one setting, and the length of its prompt."""
        reply = await self.client.chat.completions.create(**self.arguments(item, setting))
        answer = reply.choices[0].message.content or ""
        tokens = reply.usage.prompt_tokens if reply.usage else 0
        found: dict[str, Any] = {"answer": answer.strip(), "prompt_tokens": tokens}
        if self.logprobs and reply.choices[0].logprobs:
            found["first"] = _probabilities(reply.choices[0].logprobs.content)
        return found

    def arguments(self, item: Asked, setting: Setting) -> dict[str, Any]:
        """What the client is called with for one question in one setting."""
        others = dict(item.request)
        messages = others.pop("messages")
        if setting == BLIND:
            messages = _without_media(messages)
        if setting.is_alone:
            messages = last_alone(messages)
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": self.max_tokens,
            "temperature": 0,
            "extra_body": others if self.stock else others | {"script": setting.request},
            **self.logprobs,
        }

    async def available(self, item: Asked, settings: list[Setting]) -> list[Setting]:
        """The settings whose source of relevance the endpoint's model has; asks one question."""
        sources = dict.fromkeys(s.relevance for s in settings if s.relevance is not None)
        for source in list(sources):
            try:
                await self.ask(item, next(s for s in settings if s.relevance == source))
            except openai.BadRequestError as error:
                if f"relevance {source} is not available" not in str(error):
                    raise
                del sources[source]
        return [s for s in settings if s.relevance is None or s.relevance in sources]


async def ask_all(
    endpoint: Endpoint,
    items: Sequence[Asked],
    settings: Sequence[Setting],
    answers: Answers,
    path: Path,
    concurrency: int,
) -> None:
    """Ask every question in every setting, under a progress bar; see `ask_missing`."""
    pairs = [(item, setting) for item in items for setting in settings]
    with tqdm(total=len(pairs), initial=len(answers), unit="answer", mininterval=1) as bar:
        await ask_missing(endpoint, pairs, answers, path, concurrency, bar.update)


async def ask_missing(
    endpoint: Endpoint,
    pairs: Iterable[tuple[Asked, Setting]],
    answers: Answers,
    path: Path,
    concurrency: int,
    answered: Callable[[], object],
) -> None:
    """Ask what `answers` does not have yet, and add it there and to the end of the file.

    Args:
        answered: called after each answer.

    Raises:
        ValueError: a question was refused; names it. What was answered before is in the file.
        openai.OpenAIError: the endpoint does not answer.
    """
    left = iter([(i, setting) for i, setting in pairs if (i.id, str(setting)) not in answers])
    with appended_lines(path) as append:

        async def work() -> None:
            for item, setting in left:
                try:
                    reply = await endpoint.ask(item, setting)
                except openai.BadRequestError as error:
                    raise ValueError(f"question {item.id} at {setting}: {said(error)}") from None
                entry = {"item": item.id, "setting": str(setting)} | reply
                answers[item.id, str(setting)] = entry
                append(entry)
                answered()

        await asyncio.gather(*(work() for _ in range(concurrency)))


def said(error: openai.APIStatusError) -> str:
    """The server's own words about why it refuses a request."""
    words = error.body.get("message") if isinstance(error.body, dict) else None
    return str(words or error.message)


def last_alone(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a chat's last question with the pictures and videos of all of its turns."""
    parts = [part for message in messages for part in _parts(message["content"])]
    media = [part for part in parts if part["type"] != "text"]
    texts = [part for part in _parts(messages[-1]["content"]) if part["type"] == "text"]
    return [{"role": "user", "content": media + texts}]


def _parts(content: Any) -> list[dict[str, Any]]:
    """The parts of a message's content, which may be a text."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _without_media(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chat of which the texts alone are left."""

    def texts(content: Any) -> Any:
        return content if isinstance(content, str) else [p for p in content if p["type"] == "text"]

    return [message | {"content": texts(message["content"])} for message in messages]


def _probabilities(tokens: Sequence[Any] | None) -> dict[str, float]:
    """Probabilities of the likeliest first tokens, from the log probabilities of an answer."""
    found: dict[str, float] = {}
    for entry in tokens[0].top_logprobs if tokens else ():
        found[entry.token] = found.get(entry.token, 0.0) + math.exp(entry.logprob)
    return {token: p for token, value in found.items() if (p := round(value, 5))}
