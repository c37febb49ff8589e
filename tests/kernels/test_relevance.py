import pytest
import torch

from vllm_script.kernels import largest_relevance, normalize_relevance, query_relevance
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


def test_relevance_to_several_queries_is_the_largest():
    one, other = torch.tensor([[1.0, 0.2, 0.5], [0.0, 0.9, 0.6]])
    assert torch.equal(largest_relevance([one]), one)
    assert torch.equal(largest_relevance([one, other]), torch.tensor([1.0, 0.9, 0.6]))


def test_a_query_that_says_nothing_takes_no_part():
    says, constant = torch.tensor([1.0, 0.2, 0.5]), torch.ones(3)
    assert torch.equal(largest_relevance([constant, says]), says)
    assert torch.equal(largest_relevance([constant, constant]), constant)


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


@pytest.mark.parametrize(
    "num_tokens, num_query, dim", [(1, 1, 1), (63, 3, 100), pytest.param(576, 2, 1024)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("polarity", [1, -1])
def test_query_relevance_kernel(num_tokens, num_query, dim, dtype, polarity, assert_as_accurate):
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(2 * num_tokens, dim, generator=generator).to(dtype)[::2]
    query = torch.randn(num_query, dim, generator=generator).to(dtype)
    actual = query_relevance(visual, query, polarity, backend="triton")
    reference = query_relevance(visual, query, polarity, backend="torch")
    direction = torch.nn.functional.normalize(query.double()).mean(0)
    scores = polarity * (torch.nn.functional.normalize(visual.double()) @ direction)
    assert actual.dtype == torch.float32
    assert_as_accurate(actual, reference, normalize_relevance(scores))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_query_relevance_many_images(backend):
    """An image has the bits it has alone, also one whose features are odd."""
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(100, 40, generator=generator)
    visual[3], visual[4], visual[5], visual[6, 0] = torch.nan, 0.0, 3e38, torch.inf
    query = torch.randn(9, 40, generator=generator)
    query[0] = 0.0
    lengths, query_lengths = [1, 60, 39], [2, 3, 4]
    batch = query_relevance(
        visual, query, lengths=lengths, query_lengths=query_lengths, backend=backend
    )
    images = zip(visual.split(lengths), query.split(query_lengths), strict=True)
    alone = [query_relevance(*image, backend=backend) for image in images]
    assert torch.equal(batch, torch.cat(alone))
    reference = query_relevance(visual, query, lengths=lengths, query_lengths=query_lengths)
    torch.testing.assert_close(batch, reference)


@pytest.mark.parametrize("query", [torch.zeros(1, 2), torch.full((1, 2), torch.nan)])
def test_query_relevance_kernel_without_direction_is_one(query):
    assert torch.equal(query_relevance(VISUAL, query, backend="triton"), torch.ones(4))


@pytest.mark.parametrize(
    "lengths, query_lengths, message",
    [
        ([3], None, "lengths add up to 3 rows, got 4"),
        ([2, 2], None, "of the same images, got 2 and 1"),
        (None, [1], "query_lengths add up to 1 rows, got 4"),
    ],
)
def test_query_relevance_lengths_error(lengths, query_lengths, message):
    with pytest.raises(ValueError, match=message):
        query_relevance(VISUAL, VISUAL, lengths=lengths, query_lengths=query_lengths)
