"""A long query in windows, each a text of its own."""

import pytest

from vllm_script.relevance.windows import MAX_WINDOWS, cut_into_windows, first_and_last


@pytest.mark.parametrize(
    "count, lengths",
    [(0, []), (1, [3]), (75, [77]), (76, [77, 3]), (150, [77, 77]), (151, [77, 77, 3])],
)
def test_windows_cover_the_text(count, lengths):
    token_ids = list(range(10, 10 + count))
    windows = cut_into_windows(token_ids, bos=1, eos=2, length=77)
    assert [len(window) for window in windows] == lengths
    assert all(window[0] == 1 and window[-1] == 2 for window in windows)
    assert [token for window in windows for token in window[1:-1]] == token_ids


def test_a_very_long_text_keeps_its_ends():
    windows = [(1, number, 2) for number in range(100)]
    kept = first_and_last(windows)
    assert len(kept) == MAX_WINDOWS == 16
    assert kept == windows[:8] + windows[-8:]
    assert first_and_last(windows[:16]) == windows[:16]
