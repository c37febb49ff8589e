"""Ask an OpenAI-compatible endpoint every question in every setting, and keep the answers.

Settings take turns within a picture, so that a run that is stopped early has asked them all
equally often, and what drifts on a machine drifts for all of them.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
from tqdm import tqdm

from ..common import read_lines
from .questions import Item
from .settings import BLIND, Setting

Answers = dict[tuple[str, str], dict[str, Any]]
"""(item id, setting) -> {"answer": text, "prompt_tokens": int}, and "first", if it was asked for:
the probabilities of the likeliest first tokens."""
TOP_TOKENS = 20
"""The likeliest first tokens that an answer comes with, as many as vLLM gives by default."""


def read_answers(path: Path) -> Answers:
    """Answers of an earlier run; none if there was none. A line cut short is asked again."""
    return {(entry["item"], entry["setting"]): entry for entry in read_lines(path)}


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

    async def ask(self, item: Item, setting: Setting) -> dict[str, Any]:
        """The answer to one question in one setting, and the length of its prompt."""
        messages: Any = item.messages(with_picture=setting != BLIND)
        reply = await self.client.chat.completions.create(
            model=self.model,
            messages=messages,
            max_tokens=self.max_tokens,
            temperature=0,
            extra_body=None if self.stock else {"script": setting.request},
            **self.logprobs,
        )
        answer = reply.choices[0].message.content or ""
        tokens = reply.usage.prompt_tokens if reply.usage else 0
        found: dict[str, Any] = {"answer": answer.strip(), "prompt_tokens": tokens}
        if self.logprobs and reply.choices[0].logprobs:
            found["first"] = _probabilities(reply.choices[0].logprobs.content)
        return found

    async def available(self, item: Item, settings: list[Setting]) -> list[Setting]:
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
    items: Sequence[Item],
    settings: Sequence[Setting],
    answers: Answers,
    path: Path,
    concurrency: int,
) -> None:
    """Ask what `answers` does not have yet, and add it there and to the end of the file.

    Raises:
        openai.OpenAIError: a request failed; what was answered before is in the file.
    """
    pairs = [(item, setting) for item in items for setting in settings]
    left = iter([(i, setting) for i, setting in pairs if (i.id, str(setting)) not in answers])
    with (
        path.open("a", encoding="utf-8") as out,
        tqdm(total=len(pairs), initial=len(answers), unit="answer", mininterval=1) as bar,
    ):

        async def work() -> None:
            for item, setting in left:
                reply = await endpoint.ask(item, setting)
                entry = {"item": item.id, "setting": str(setting)} | reply
                answers[item.id, str(setting)] = entry
                print(json.dumps(entry), file=out, flush=True)
                bar.update()

        await asyncio.gather(*(work() for _ in range(concurrency)))


def _probabilities(tokens: Sequence[Any] | None) -> dict[str, float]:
    """Probabilities of the likeliest first tokens, from the log probabilities of an answer."""
    found: dict[str, float] = {}
    for entry in tokens[0].top_logprobs if tokens else ():
        found[entry.token] = found.get(entry.token, 0.0) + math.exp(entry.logprob)
    return {token: p for token, value in found.items() if (p := round(value, 5))}
