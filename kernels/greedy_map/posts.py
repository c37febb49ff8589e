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
    best = tl.max(words, 0)
    tl.store(word_ptr, best)
    tl.store(newest_ptr, tl.sum(tl.where(words == best, values, 0.0), 0))


@jit
def read_argmax(words_ptr, newest_ptr, num_programs, BLOCK_PROGRAMS: tl.constexpr):
    """Read the best of all posts.

    Returns the token's row, whether it is picked by its residual, that residual or else its weight,
    and its newest value of the factor.
    """
    program = tl.arange(0, BLOCK_PROGRAMS)
    mask = program < num_programs
    words = tl.load(words_ptr + program, mask=mask, other=-(2**63), cache_modifier=".cg")
    newest = tl.load(newest_ptr + program, mask=mask, other=0.0, cache_modifier=".cg")
    best = tl.max(words, 0)
    row = (0xFFFFFFFF - (best & 0xFFFFFFFF)).to(tl.int32)
    value = ((best >> 32) & 0x7FFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
    return row, best > 0, value, tl.sum(tl.where(words == best, newest, 0.0), 0)
