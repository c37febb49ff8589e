"""The number of kept tokens: hand-worked values and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_script.budget import even_shares, num_kept


@pytest.mark.parametrize(
    "placeholders, patches, settings, kept",
    [
        (2928, 2880, {"keep_ratio": 0.11}, 322),  # 672x672: 322.08
        (2340, 2304, {"keep_ratio": 0.11}, 257),  # 640x480: 257.4
        (576, 576, {"keep_ratio": 0.11}, 63),  # LLaVA-1.5: 63.36
        (2928, 2880, {"keep_ratio": 1.0}, None),
        (2928, 2880, {"keep_ratio": 0.99}, 2880),  # 2898.7 rows, but newlines are never kept
        (10, 10, {"keep_ratio": 0.25}, 3),  # half up, not to even
        (10, 10, {"keep_ratio": 0.001}, 1),
        (10, 10, {"keep_ratio": 0.96}, None),  # rounds to all of them
        (2928, 2880, {"visual_token_budget": 322}, 322),
        (2928, 2880, {"visual_token_budget": 2927}, 2880),
        (2928, 2880, {"visual_token_budget": 2928}, None),
        (2928, 2880, {"visual_token_budget": 60_000}, None),
    ],
)
def test_values(placeholders, patches, settings, kept):
    assert num_kept(placeholders, patches, **settings) == kept


@given(
    patches=st.integers(1, 3000),
    newlines=st.integers(0, 100),
    ratio=st.floats(0, 1, exclude_min=True),
)
def test_never_empty_never_more_than_there_is(patches, newlines, ratio):
    kept = num_kept(patches + newlines, patches, keep_ratio=ratio)
    assert kept is None or 1 <= kept <= patches
    if kept is None:
        assert ratio == 1 or newlines == 0


@pytest.mark.parametrize(
    "minimum, settings, kept",
    [
        (8, {"keep_ratio": 0.01}, 8),
        (8, {"visual_token_budget": 3}, 8),
        (8, {"keep_ratio": 0.5}, 50),
        (100, {"keep_ratio": 0.01}, None),
        (200, {"keep_ratio": 0.01}, None),
    ],
)
def test_the_fewest_that_may_stay(minimum, settings, kept):
    """Of 100; where all must stay, the image is left whole."""
    assert num_kept(100, 100, minimum, **settings) == kept


@pytest.mark.parametrize("total, num_shares", [(5, 5), (23, 5), (7, 3), (100, 1), (12, 4)])
def test_even_shares(total, num_shares):
    shares = even_shares(total, num_shares)
    assert sum(shares) == total
    assert len(shares) == num_shares
    assert max(shares) - min(shares) <= 1
