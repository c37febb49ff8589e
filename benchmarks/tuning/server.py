"""What a server allows to be asked of it, and how long it takes to answer."""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Sequence
from typing import Any

import openai

from ..accuracy.asking import Endpoint, said
from ..accuracy.settings import WHOLE, Setting
from .log import media_parts
from .losses import Question


class Unusable(ValueError):
    """The server cannot be tuned; the text says why, and what to do."""


async def first_model(endpoint: Endpoint) -> str:
    """The name of the first model that a server has."""
    return (await endpoint.client.models.list()).data[0].id


async def allowed(
    endpoint: Endpoint, question: Question, settings: Sequence[Setting]
) -> tuple[list[Setting], list[str]]:
    """Ask one question, and leave out what the server refuses.

    Nothing of it is kept: the server may be another one when a run goes on.

    Returns:
        the settings that it takes, and its own words about each source of relevance and each keep
        ratio that it does not take.

    Raises:
        Unusable: it does not answer unpruned, or does not prune, or takes none of the settings.
    """
    whole, refused = await _prompt_tokens(endpoint, question, WHOLE)
    if refused:
        raise Unusable(
            f"unpruned answers are what is compared with, and the server gives none: {refused}"
        )
    left, said_no = list(settings), []
    for source in dict.fromkeys(s.relevance for s in settings if s.relevance is not None):
        example = next(setting for setting in left if setting.relevance == source)
        _, refused = await _prompt_tokens(endpoint, question, example)
        if refused:
            left = [setting for setting in left if setting.relevance != source]
            said_no.append(refused)
    while left:
        example = min(left, key=lambda setting: setting.keep_ratio)
        pruned, refused = await _prompt_tokens(endpoint, question, example)
        if not refused:
            break
        left = [setting for setting in left if setting.keep_ratio != example.keep_ratio]
        said_no.append(refused)
    if not left:
        raise Unusable(f"the server takes none of these settings: {said_no[-1]}")
    if pruned >= whole:
        raise Unusable(
            f"the server does not prune: a prompt of {whole} tokens is as long at keep ratio "
            f"{example.keep_ratio:g}. Start it as vllm serve ... --plugin script"
        )
    return left, said_no


async def _prompt_tokens(
    endpoint: Endpoint, question: Question, setting: Setting
) -> tuple[int, str]:
    """The length of the prompt, and what the server says if it refuses, else an empty text."""
    try:
        return (await endpoint.ask(question, setting))["prompt_tokens"], ""
    except openai.BadRequestError as error:
        return 0, said(error)


async def first_token_seconds(endpoint: Endpoint, question: Question, setting: Setting) -> float:
    """Seconds from sending a request to its first token, of pictures that no cache has seen."""
    arguments = endpoint.arguments(question, setting)
    arguments["messages"] = _unseen(arguments["messages"])
    started = time.perf_counter()
    stream = await endpoint.client.chat.completions.create(**arguments, stream=True)
    seconds = 0.0
    async for chunk in stream:
        if chunk.choices and not seconds and chunk.choices[0].delta.content:
            seconds = time.perf_counter() - started
    return seconds or time.perf_counter() - started


def _unseen(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with new names for their pictures, by which vLLM's caches know them."""
    messages = copy.deepcopy(messages)
    for part in media_parts(messages):
        part["uuid"] = uuid.uuid4().hex
    return messages


def in_words(error: openai.OpenAIError, url: str) -> str:
    """One line about an error of a server, which says what to do."""
    if isinstance(error, openai.APIConnectionError):
        return f"{url} does not answer; give the address of a vllm serve that is up"
    if isinstance(error, openai.AuthenticationError):
        return f"{url} wants a key; give the one it was started with as --api-key"
    words = said(error) if isinstance(error, openai.APIStatusError) else str(error)
    return f"{url} refuses: {' '.join(words.split())}"
