"""The exchange of a step: each program posts its best token, and reads what all others posted.

A post is one 64-bit word: the bits of a residual > 0, which are in its order, above the inverted
number of the token's row. So the largest word is the largest residual, of the lowest row on ties.
Where a residual is no more than rounding the word holds the weight instead, and is negative, so
that any residual comes before. Beside the word stands the token's newest value of the factor: its
reader need not wait for the column that the value is from.
"""

from __future__ import annotations

from .._triton import jit, tl


@jit
def post_argmax(word_ptr, newest_ptr, rows, residual, weight, room, residual_floor, values):
    """Post the best token of those whose frame has room; a residual of -inf is no candidate."""
    is_new = residual > residual_floor * (weight * weight)
    bits = tl.where(is_new, residual, weight).to(tl.int32, bitcast=True).to(tl.int64)
    words = (bits << 32) | (0xFFFFFFFF - rows.to(tl.int64))
    nothing = tl.full(rows.shape, -(2**63), dtype=tl.int64)
    words = tl.where(is_new, words, words | nothing)
    words = tl.where((residual > float("-inf")) & (room > 0), words, nothing)
    best, newest = tl.reduce((words, values), 0, _larger)
    tl.store(word_ptr, best)
    tl.store(newest_ptr, newest)


@jit
def _larger(word, value, other_word, other_value):
    """The larger of two words, and the value beside it."""
    is_larger = word > other_word
    return tl.where(is_larger, word, other_word), tl.where(is_larger, value, other_value)


@jit
def read_posts(words_ptr, newest_ptr, num_programs, BLOCK_PROGRAMS: tl.constexpr):
    """The words of all programs, and the newest values of the factor beside them."""
    program = tl.arange(0, BLOCK_PROGRAMS)
    mask = program < num_programs
    words = tl.load(words_ptr + program, mask=mask, other=-(2**63), cache_modifier=".cg")
    newest = tl.load(newest_ptr + program, mask=mask, other=0.0, cache_modifier=".cg")
    return words, newest


@jit
def row_of(word):
    """Row of a word's token, int32."""
    return (0xFFFFFFFF - (word & 0xFFFFFFFF)).to(tl.int32)


@jit
def value_of(word):
    """Residual of a word's token, or its weight where the word is negative."""
    return ((word >> 32) & 0x7FFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
