"""The exchange of a step of greedy MAP: each program posts its best token, and reads all posts.

A post is one 64-bit word: the bits of a residual > 0, which are in its order, above the inverted
number of the token. So the largest word is the largest residual, of the lowest token on ties. Where
a residual is no more than rounding the word holds the weight instead, and is negative, so that any
residual comes before. A word is never 0, which is what stands there before, and has one writer:
nothing is counted, and nothing depends on who comes first.
"""

from __future__ import annotations

from ._triton import jit, tl


@jit
def post(post_ptr, tokens, residual, weight, room, floor):
    """Post the best token of those whose frame has room; a residual of -inf is no candidate."""
    is_new = residual > floor
    bits = tl.where(is_new, residual, weight).to(tl.int32, bitcast=True).to(tl.int64)
    words = (bits << 32) | (0xFFFFFFFF - tokens.to(tl.int64))
    nothing = tl.full(tokens.shape, -(2**63), dtype=tl.int64)
    words = tl.where(is_new, words, words | nothing)
    best = tl.max(tl.where((residual > float("-inf")) & (room > 0), words, nothing), 0)
    # What all threads of the program stored, thread 0 releases.
    tl.debug_barrier()
    tl.atomic_xchg(post_ptr, best, sem="release", scope="gpu")


@jit
def read_posts(posts_ptr, num_programs, TOGETHER: tl.constexpr, BLOCK_PROGRAMS: tl.constexpr):
    """(token, whether by its residual, that or its weight) of the best post of all programs.

    Waits for the last. The words are read by atomics: those have one result for all threads, which
    leave the loop at the same time and meet at its end.
    """
    programs = tl.arange(0, BLOCK_PROGRAMS)
    mask = programs < num_programs
    nothing = tl.zeros([BLOCK_PROGRAMS], dtype=tl.int64)
    if TOGETHER:
        # Read before the loop too: Triton 3.6 cannot compile a loop that starts from zeros.
        words = tl.atomic_or(posts_ptr + programs, nothing, mask, sem="acquire", scope="gpu")
        while tl.sum((mask & (words == 0)).to(tl.int32), 0) > 0:
            words = tl.atomic_or(posts_ptr + programs, nothing, mask, sem="acquire", scope="gpu")
        tl.debug_barrier()
    else:
        words = tl.load(posts_ptr + programs, mask=mask, other=0)
    best = tl.max(tl.where(mask, words, -(2**63)), 0)
    token = (0xFFFFFFFF - (best & 0xFFFFFFFF)).to(tl.int32)
    value = ((best >> 32) & 0x7FFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
    return token, best > 0, value
