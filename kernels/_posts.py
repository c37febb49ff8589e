"""The exchange of programs that look for the best token of an image together.

Every program posts its best token and reads what all the others posted, so each knows the best of
all. A post is one 64-bit word: the bits of a score >= 0, which are in its order, above the inverted
number of the token's row. So the largest word is the largest score, of the lowest row on ties.
Posts are written in turns to two places: who reads one has written the next before it is written
again.
"""

from __future__ import annotations

from ._triton import jit, tl


@jit
def post_best(word_ptr, row, score, is_candidate):
    """Post the candidate with the largest score, which is >= 0."""
    bits = score.to(tl.int32, bitcast=True).to(tl.int64)
    words = (bits << 32) | (0xFFFFFFFF - row.to(tl.int64))
    tl.store(word_ptr, tl.max(tl.where(is_candidate, words, -1), 0))


@jit
def best_row(words_ptr, num_programs, BLOCK_PROGRAMS: tl.constexpr):
    """Row of the best token that was posted, int32."""
    program = tl.arange(0, BLOCK_PROGRAMS)
    mask = program < num_programs
    # Others wrote them in this launch, so they are read past the cache of this multiprocessor.
    words = tl.load(words_ptr + program, mask=mask, other=-1, cache_modifier=".cg")
    return (0xFFFFFFFF - (tl.max(words, 0) & 0xFFFFFFFF)).to(tl.int32)
