import pytest
import torch

from vllm_script.kernels import normalize_relevance, query_relevance, unit_rows
from vllm_script.kernels.relevance import EPSILON

VISUAL = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
# Cosines with (1, 0): 1, 0, -1, 0. With (0, 1): 0, 1, 0, 0.


@pytest.mark.parametrize(
    "query, polarity, expected",
    [
        ([[5.0, 0.0]], 1, [1.0, 0.5, 0.0, 0.5]),
        ([[5.0, 0.0]], -1, [0.0, 0.5, 1.0, 0.5]),
        # Means 0.5, 0.5, -0.5, 0: the length of a query row does not matter.
        ([[5.0, 0.0], [0.0, 0.1]], 1, [1.0, 1.0, 0.0, 0.5]),
    ],
    ids=["positive", "negative", "mean-of-two"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_query_relevance_by_hand(query, polarity, expected, dtype):
    relevance = query_relevance(VISUAL.to(dtype), torch.tensor(query).to(dtype), polarity)
    assert relevance.dtype == torch.float32
    torch.testing.assert_close(relevance, torch.tensor(expected), atol=2 * EPSILON, rtol=1e-6)
    assert relevance.min() > 0  # the offset keeps every token selectable


@pytest.mark.parametrize("query", [torch.zeros(1, 2), torch.full((1, 2), torch.nan)])
def test_query_relevance_without_direction_is_one(query):
    assert torch.equal(query_relevance(VISUAL, query), torch.ones(4))


def test_query_relevance_polarity_error():
    with pytest.raises(ValueError, match="polarity must be 1 or -1, got 0"):
        query_relevance(VISUAL, VISUAL, 0)


@pytest.mark.parametrize("value", [0.0, 0.3, -1e30])
@pytest.mark.parametrize("num_tokens", [1, 7])
def test_normalize_relevance_constant_is_exactly_one(value, num_tokens):
    ones = torch.ones(num_tokens)
    assert torch.equal(normalize_relevance(value * ones), ones)


def test_normalize_relevance_rounding_noise_is_one():
    assert torch.equal(normalize_relevance(torch.tensor([1.0, 1.0 - 1e-7])), torch.ones(2))


def test_unit_rows():
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [torch.nan, 2.0], [torch.inf, -2.0]]))
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    torch.testing.assert_close(rows, expected)


def test_unit_rows_is_the_same_for_every_layout():
    x = torch.randn(300, 1000, generator=torch.Generator().manual_seed(0))
    wide = torch.zeros(300, 2001)
    wide[:, 1::2] = x
    for same in (x.T.contiguous().T, wide[:, 1::2]):
        assert torch.equal(unit_rows(same), unit_rows(x)) and unit_rows(same).is_contiguous()


@pytest.mark.parametrize("scale", [3.4e38, 1e-45], ids=["overflow", "underflow"])
def test_unit_rows_out_of_range_norm_is_finite(scale):
    assert unit_rows(torch.full((2, 64), scale)).isfinite().all()
