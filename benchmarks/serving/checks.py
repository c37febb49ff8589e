"""Whether answers are right: before anything is timed, and of everything that is."""

from __future__ import annotations

import os
from collections.abc import Sequence

import openai

from .driver import Block
from .fleet import Target
from .requests import Request


class WrongOutputs(Exception):
    """A server answered, but not what it was asked for."""

    def __str__(self) -> str:
        return f"wrong outputs: {self.args[0]}"


def ask(
    target: Target, request: Request, output_tokens: int, keep_ratio: float | None
) -> tuple[tuple[int, ...], int]:
    """One greedy answer, not timed: its token ids, and how many tokens its prompt has."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    client = openai.OpenAI(base_url=f"{target.root}/v1", api_key=key, max_retries=0, timeout=600)
    extra: dict[str, object] = {"ignore_eos": True, "return_token_ids": True}
    if keep_ratio is not None:
        extra["script"] = {"keep_ratio": keep_ratio}
    reply = client.chat.completions.create(
        model=target.model,
        messages=[request.message],  # type: ignore[list-item]
        max_tokens=output_tokens,
        temperature=0,
        extra_body=extra,
    )
    token_ids = tuple(reply.choices[0].token_ids)  # type: ignore[attr-defined]
    return token_ids, reply.usage.prompt_tokens if reply.usage else 0


def check_off_is_stock(
    stock: Target,
    other: Target,
    requests: Sequence[Request],
    expected: Sequence[int],
    output_tokens: int,
    keep_ratio: float | None,
) -> None:
    """Ask both the same, one at a time.

    Args:
        expected: tokens of each prompt.
        keep_ratio: what the other one is sent: 1.0 where it prunes, None where it does not.

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
        if ours != theirs:
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
