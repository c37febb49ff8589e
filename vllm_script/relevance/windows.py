"""The query as CLIP can read it: windows of at most 77 tokens, each with its own BOS and EOS."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

MAX_WINDOWS = 16


def cut_into_windows(
    token_ids: Sequence[int], *, bos: int, eos: int, length: int
) -> list[tuple[int, ...]]:
    """Return windows of at most `length` tokens, BOS and EOS included, that cover `token_ids`.

    Source: the published code appends one BOS and one EOS to the whole text before it cuts, so its
    first window is pooled at BOS and says nothing. Differs: every window is a text of its own.
    """
    room = length - 2
    cuts = [token_ids[start : start + room] for start in range(0, len(token_ids), room)]
    return [(bos, *cut, eos) for cut in cuts]


def first_and_last(windows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The ends of a text of more than MAX_WINDOWS windows."""
    if len(windows) <= MAX_WINDOWS:
        return windows
    half = MAX_WINDOWS // 2
    return windows[:half] + windows[-half:]


@lru_cache(maxsize=2048)
def clip_windows(clip_model: str, text: str) -> list[tuple[int, ...]]:
    """All windows of `text`, with the tokenizer and text length of a CLIP checkpoint."""
    tokenizer, length = _tokenizer(clip_model)
    token_ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    return cut_into_windows(
        token_ids, bos=tokenizer.bos_token_id, eos=tokenizer.eos_token_id, length=length
    )


@lru_cache(maxsize=4)
def _tokenizer(clip_model: str) -> tuple[Any, int]:
    from transformers import AutoConfig, AutoTokenizer

    length = AutoConfig.from_pretrained(clip_model).text_config.max_position_embeddings
    return AutoTokenizer.from_pretrained(clip_model), length
