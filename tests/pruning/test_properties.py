"""What every mode promises, whatever the tokens hold."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_script import select_visual_tokens
from vllm_script.pruning import MODES, PruningParams, run_mode

QUICK = settings(deadline=None, derandomize=True, max_examples=200)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def low_rank(num_tokens: int, dim: int, rank: int, generator: torch.Generator) -> torch.Tensor:
    mix = torch.randn(num_tokens, rank, generator=generator)
    return mix @ torch.randn(rank, dim, generator=generator)


TOKENS = {
    "random": lambda n, d, g: torch.randn(n, d, generator=g),
    "constant": lambda n, d, g: torch.randn(1, d, generator=g).expand(n, d),
    "zero": lambda n, d, g: torch.zeros(n, d),
    "some-zero": lambda n, d, g: (torch.rand(n, 1, generator=g) < 0.5) * torch.ones(n, d),
    "duplicates": lambda n, d, g: torch.randn(3, d, generator=g)[torch.arange(n) % 3],
    "rank-1": lambda n, d, g: low_rank(n, d, 1, g),
    "rank-2": lambda n, d, g: low_rank(n, d, 2, g),
    "integers": lambda n, d, g: torch.randint(-1, 2, (n, d), generator=g).float(),
}
RELEVANCE = {
    "none": lambda n, g: None,
    "random": lambda n, g: torch.rand(n, generator=g),
    "zero": lambda n, g: torch.zeros(n),
    "mostly-zero": lambda n, g: (torch.rand(n, generator=g) < 0.1).float(),
    "huge-and-tiny": lambda n, g: 10.0 ** (76 * torch.rand(n, generator=g) - 38),
}


@st.composite
def selections(draw):
    num_tokens = draw(st.integers(1, 40))
    budget = draw(st.one_of(st.just(1), st.just(num_tokens), st.integers(1, num_tokens)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    make_tokens = TOKENS[draw(st.sampled_from(sorted(TOKENS)))]
    make_relevance = RELEVANCE[draw(st.sampled_from(sorted(RELEVANCE)))]
    tokens = make_tokens(num_tokens, draw(st.integers(1, 12)), generator)
    return (
        tokens.to(draw(st.sampled_from(DTYPES))),
        budget,
        make_relevance(num_tokens, generator),
    )


def assert_exact_budget(kept: torch.Tensor, budget: int, num_tokens: int) -> None:
    assert kept.dtype == torch.int64 and kept.shape == (budget,)
    assert (kept.diff() > 0).all()  # ascending and unique
    assert kept[0] >= 0 and kept[-1] < num_tokens


@pytest.mark.parametrize("mode", MODES)
@QUICK
@given(selection=selections(), tau=st.sampled_from([-1.0, 0.1, 1.0]), relative=st.booleans())
def test_exact_budget(mode, selection, tau, relative):
    tokens, budget, relevance = selection
    kept = select_visual_tokens(
        tokens, budget, relevance=relevance, mode=mode, tau=tau, tau_relative=relative
    )
    assert_exact_budget(kept, budget, len(tokens))


@pytest.mark.parametrize("mode", MODES)
@QUICK
@given(selection=selections(), seed=st.integers(0, 99))
def test_run_mode_survives_any_content(mode, selection, seed):
    tokens, budget, _ = selection
    generator = torch.Generator().manual_seed(seed)
    bad = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, -1.0])

    def spoil(x: torch.Tensor) -> torch.Tensor:
        values = bad[torch.randint(0, 5, x.shape, generator=generator)].to(x.dtype)
        return torch.where(torch.rand(x.shape, generator=generator) < 0.4, values, x)

    relevance = spoil(torch.rand(len(tokens), generator=generator))
    kept = run_mode(spoil(tokens), budget, relevance, mode, PruningParams())
    assert_exact_budget(kept, budget, len(tokens))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -0.5])
@pytest.mark.parametrize("mode", MODES)
def test_run_mode_counts_bad_relevance_as_zero(mode, value):
    generator = torch.Generator().manual_seed(0)
    tokens, relevance = torch.randn(30, 16, generator=generator), torch.linspace(0, 1, 30)
    spoiled = torch.where(relevance == 0, value, relevance)
    kept, expected = (run_mode(tokens, 7, r, mode, PruningParams()) for r in (spoiled, relevance))
    assert torch.equal(kept, expected)


def strided(x: torch.Tensor) -> torch.Tensor:
    wide = torch.full((2 * len(x), 3 * x.shape[-1]) if x.dim() == 2 else (2 * len(x),), 7.0)
    view = wide[1::2, 2::3] if x.dim() == 2 else wide[1::2]
    return view.copy_(x)


SAME_VALUES = {
    "again": lambda x: x,
    "slice": lambda x: torch.cat([x + 1, x, x + 2])[len(x) : 2 * len(x)],
    "strided": strided,
    "column-major": lambda x: x.T.contiguous().T,
    "float64": lambda x: x.double(),
    "needs-grad": lambda x: x.clone().requires_grad_(),
}


@pytest.mark.parametrize("copy", SAME_VALUES.values(), ids=SAME_VALUES)
@pytest.mark.parametrize("mode", MODES)
def test_selection_depends_on_values_only(mode, copy):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(301, 67, generator=generator) + 0.5
    relevance = torch.rand(301, generator=generator)
    kept = select_visual_tokens(tokens, 40, relevance=relevance, mode=mode)
    select_visual_tokens(tokens[:90] * 2, 30, mode=mode)
    same = select_visual_tokens(copy(tokens), 40, relevance=strided(relevance), mode=mode)
    assert torch.equal(kept, same)


@pytest.fixture
def bfloat16_default():
    torch.set_default_dtype(torch.bfloat16)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("mode", MODES)
def test_default_dtype_does_not_matter(mode, request):
    tokens = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    relevance = tokens[:, 0].abs()
    kept = select_visual_tokens(tokens, 40, relevance=relevance, mode=mode)
    request.getfixturevalue("bfloat16_default")  # vLLM sets it while it loads a model
    assert torch.equal(select_visual_tokens(tokens, 40, relevance=relevance, mode=mode), kept)


@pytest.mark.parametrize("seed", range(5))
def test_cdpruner_follows_a_permutation(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(80, 64, generator=generator)
    relevance = torch.rand(80, generator=generator)
    order = torch.randperm(80, generator=generator)
    kept = select_visual_tokens(tokens, 20, relevance=relevance, mode="cdpruner")
    permuted = select_visual_tokens(tokens[order], 20, relevance=relevance[order], mode="cdpruner")
    assert torch.equal(order[permuted].sort().values, kept)


@pytest.mark.parametrize("mode", MODES)
def test_inputs_are_left_alone(mode):
    tokens, relevance = torch.randn(2, 30, 30, generator=torch.Generator().manual_seed(0))
    relevance = relevance[0].abs()
    before = tokens.clone(), relevance.clone()
    select_visual_tokens(tokens, 7, relevance=relevance, mode=mode)
    assert torch.equal(tokens, before[0]) and torch.equal(relevance, before[1])
