"""Whether answers are right: before anything is timed, and of everything that is."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import openai

from .driver import Block
from .fleet import Target
from .requests import Request

TIE = 0.1
"""Two tokens whose log probabilities differ by less in 16 bits may come out either way, where two
servers have tuned their kernels apart, as on GPUs. What follows such a token is another text."""
TOP = 5
"""Tokens of each place whose log probabilities are asked for."""


class WrongOutputs(Exception):
    """A server answered, but not what it was asked for."""

    def __str__(self) -> str:
        return f"wrong outputs: {self.args[0]}"


def ask(
    target: Target, request: Request, output_tokens: int, keep_ratio: float | None
) -> tuple[tuple[int, ...], int]:
    """One greedy answer, not timed: its token ids, and how many tokens its prompt has."""
    reply = _complete(target, request, output_tokens, keep_ratio)
    return tuple(reply.choices[0].token_ids), reply.usage.prompt_tokens


def gap(
    target: Target, request: Request, before: Sequence[int], token: int, output_tokens: int
) -> float:
    """How much less likely a token is than the server's own choice, in log probability.

    Args:
        before: tokens of the answer before it.

    Returns:
        infinity if it is not among the likeliest, or if other tokens come before it now.
    """
    reply = _complete(target, request, output_tokens, None, logprobs=True, top_logprobs=TOP)
    place, choice = len(before), reply.choices[0]
    if tuple(choice.token_ids[:place]) != tuple(before):
        return math.inf
    likeliest: dict[str, float] = {
        x.token: x.logprob for x in choice.logprobs.content[place].top_logprobs
    }
    return max(likeliest.values()) - likeliest.get(f"token_id:{token}", -math.inf)


def _complete(
    target: Target,
    request: Request,
    output_tokens: int,
    keep_ratio: float | None,
    **settings: Any,
) -> Any:
    """One greedy answer, as the openai client has it; tokens are named by their ids."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    client = openai.OpenAI(base_url=f"{target.root}/v1", api_key=key, max_retries=0, timeout=600)
    extra: dict[str, object] = {"ignore_eos": True, "return_token_ids": True}
    extra["return_tokens_as_token_ids"] = True
    if keep_ratio is not None:
        extra["script"] = {"keep_ratio": keep_ratio}
    return client.chat.completions.create(
        model=target.model,
        messages=[request.message],  # type: ignore[list-item]
        max_tokens=output_tokens,
        temperature=0,
        extra_body=extra,
        **settings,
    )


def check_off_is_stock(
    stock: Target,
    other: Target,
    requests: Sequence[Request],
    expected: Sequence[int],
    output_tokens: int,
    keep_ratio: float | None,
    tie: float = 0.0,
) -> None:
    """Ask both the same, one at a time.

    Args:
        expected: tokens of each prompt.
        keep_ratio: what the other one is sent: 1.0 where it prunes, None where it does not.
        tie: how much less likely than its own choice stock may find the first token that differs.

    Raises:
        WrongOutputs: the answers differ, or the prompts are not as long as expected.
    """
    for number, (request, tokens) in enumerate(zip(requests, expected, strict=True)):
        ours, our_tokens = ask(other, request, output_tokens, keep_ratio)
        theirs, their_tokens = ask(stock, request, output_tokens, None)
        for target, found in ((stock, their_tokens), (other, our_tokens)):
            if found != tokens:
                raise WrongOutputs(
                    f"{target.kind} has {found} tokens in a prompt with a "
                    f"{request.size.modality} of {request.size}, expected {tokens}"
                )
        if ours == theirs:
            continue
        place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        less = gap(stock, request, theirs[:place], ours[place], output_tokens) if tie else math.inf
        if less > tie:
            raise WrongOutputs(
                f"with pruning off {other.kind} answers picture {number} with the tokens "
                f"{ours}, stock with {theirs}"
            )


def check_block(block: Block, expected: Sequence[int], output_tokens: int) -> None:
    """Check every request of a block; `expected`: tokens of each prompt.

    Raises:
        WrongOutputs: one failed, has other lengths than asked for, or was answered from a cache.
    """
    if failed := list(filter(None, block["errors"])):
        raise WrongOutputs(f"{len(failed)} requests failed, one with: {failed[0]}")
    lengths = zip(block["input_lens"], expected, block["output_lens"], strict=True)
    for number, (prompt, wanted, output) in enumerate(lengths):
        if prompt != wanted:
            raise WrongOutputs(f"request {number} had {prompt} prompt tokens, expected {wanted}")
        if output != output_tokens:
            raise WrongOutputs(f"request {number} got {output} tokens, asked for {output_tokens}")
    if hits := block["grown"].get("vllm:mm_cache_hits_total", 0):
        raise WrongOutputs(
            f"{hits:.0f} pictures were in the server's cache although each is new: somebody else "
            "asks this server"
        )
