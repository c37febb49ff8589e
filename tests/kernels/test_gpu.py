"""What only a GPU can show: `make test-gpu`. Everything else about the kernels runs on any machine.

Bfloat16, the meeting of programs, memory, waiting, races; and the selection against the CPU's.
"""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vllm_script import kernels
from vllm_script.kernels import (
    farthest_first,
    gather_rows,
    greedy_cover,
    inverse_norms,
    normalize_relevance,
    query_relevance,
)
from vllm_script.kernels.testing import (
    assert_cover,
    assert_farthest,
    assert_picks,
    assert_selection,
    num_differing,
    rows_of,
    unit_rows64,
)
from vllm_script.pruning import PruningParams, run_mode

from .ops import greedy_map, reduce_graph, similarity_of

CLUSTER = importlib.import_module("vllm_script.kernels.greedy_map.cluster")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1",
        reason="TRITON_INTERPRET=1 keeps off the GPU",
    ),
]


@pytest.fixture(autouse=True)
def nothing_falls_back():
    """Every kernel is launched, none runs in PyTorch instead, and programs wait for each other; by
    clusters is selected where a GPU has them."""
    launching = sys.modules["vllm_script.kernels._launch"]
    device = torch.device("cuda", torch.cuda.current_device())
    of_clusters = torch.cuda.get_device_capability() in ((9, 0), (10, 0))
    assert CLUSTER.has_clusters(device) or not of_clusters
    yield
    fallen_back = launching._in_torch | launching._by_phase
    launching._in_torch.clear()
    launching._by_phase.clear()
    assert fallen_back == set()


SETTINGS = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SIZES = [(1, 1), (63, 100), (576, 1024), (2928, 256), (2880, 4096), (5760, 3584)]

# LLaVA-NeXT, one 672x672 image: 2880 patches of which 322 stay.
NUM_TOKENS, DIM, BUDGET = 2880, 4096, 322

# The selection may take this much beside its inputs, for one image.
MEMORY = 32_000_000


def features(num_tokens, dim, dtype, seed=0):
    """Strided rows on the GPU, with clusters and a common offset as real features have."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(1, num_tokens // 4), dim, generator=generator) + 0.5
    labels = torch.randint(len(centres), (2 * num_tokens,), generator=generator)
    rows = centres[labels] + 0.5 * torch.randn(2 * num_tokens, dim, generator=generator)
    return rows.to("cuda", dtype)[::2]


def relevance_of(num_tokens, seed=0):
    return torch.rand(num_tokens, generator=torch.Generator().manual_seed(seed)).cuda()


def llava_next_inputs(num_images=1):
    x = features(NUM_TOKENS * num_images, DIM, torch.bfloat16).contiguous()
    return x, relevance_of(NUM_TOKENS * num_images)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_tokens, dim", SIZES)
def test_scores(num_tokens, dim, dtype, assert_as_accurate):
    x = features(num_tokens, dim, dtype)
    exact = unit_rows64(x)
    inverse_norm = inverse_norms(x)
    assert_as_accurate(inverse_norm, inverse_norms(x, "torch"), 1 / x.double().norm(dim=1))

    direction = exact[:3].mean(0)
    scores = normalize_relevance(exact @ direction)
    relevance = [query_relevance(x, x[:3], backend=backend) for backend in ("triton", "torch")]
    assert_as_accurate(*relevance, scores)

    every = slice(None)
    cosines = [
        similarity_of(rows, backend=backend).block(0, every, every)
        for rows, backend in ((x, "triton"), (x.float(), "torch"))
    ]
    assert_as_accurate(*cosines, exact @ exact.T)

    indices = torch.randint(num_tokens, (max(1, num_tokens // 2),), device="cuda")
    assert torch.equal(gather_rows(x, indices), x[indices])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_tokens, dim", SIZES)
@pytest.mark.parametrize("keep", [0.056, 0.25, 0.5])
def test_selection(num_tokens, dim, dtype, keep, count_ties):
    x, relevance = features(num_tokens, dim, dtype), relevance_of(num_tokens)
    budget = max(1, int(keep * num_tokens))
    target = max(budget, num_tokens // 2, 1)
    _, num_beyond_tie = assert_selection(x, relevance, target, budget, "triton", **SETTINGS)
    candidates = torch.arange(num_tokens, device="cuda")
    for clusters in True, False:
        picks = greedy_map(x, None, budget, clusters=clusters)  # all tokens, all alike
        num_beyond_tie += assert_picks(x, None, candidates, picks)
    count_ties(3 * budget, 0, num_beyond_tie)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_integers_are_identical(dtype):
    """Rows of 4 or 16 times 1: cosines are exact, ties everywhere."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(1500, 64)
    for row in x:
        size = 4 ** int(torch.randint(1, 3, (1,), generator=generator))
        row[torch.randperm(64, generator=generator)[:size]] = 1.0
    for settings in (SETTINGS, {"tau": 0.5, "tau_relative": False, "gamma": 0.0}):
        pools = [reduce_graph(x.to(dtype), 300, **settings)]
        pools.append(reduce_graph(x.to("cuda", dtype), 300, **settings))
        assert torch.equal(*(rows_of(*pool, [1500])[0].cpu() for pool in pools))


@pytest.mark.parametrize("clusters", [True, False])
@pytest.mark.parametrize("num_images", [2, 8, 32, 200])
def test_many_images(num_images, clusters):
    """An image gets what it gets alone, whatever lies beside it, to the bit."""
    generator = torch.Generator().manual_seed(0)
    # The last image is of another class of sizes than the others.
    lengths = [*torch.randint(1, 700, (num_images - 1,), generator=generator).tolist(), 9000]
    targets = [max(1, length // 2) for length in lengths]
    budgets = [max(1, length // 9) for length in lengths]
    x, relevance = features(sum(lengths), 512, torch.bfloat16), relevance_of(sum(lengths))
    pool = reduce_graph(x, targets, **SETTINGS, lengths=lengths)
    picks = greedy_map(x, relevance, budgets, lengths=lengths, pool=pool, clusters=clusters)
    alone, first = [], 0
    for length, target, budget in zip(lengths, targets, budgets, strict=True):
        own = slice(first, first + length)
        own_pool = reduce_graph(x[own], target, **SETTINGS)
        own_picks = greedy_map(x[own], relevance[own], budget, pool=own_pool, clusters=clusters)
        alone.append(first + own_picks)
        first += length
    assert torch.equal(picks, torch.cat(alone))


@pytest.mark.parametrize("num_tokens, dim", [(576, 1024), (NUM_TOKENS, DIM)])
def test_meeting_is_the_end_of_a_launch(num_tokens, dim, monkeypatch):
    """One launch whose programs meet gives the bits of a launch for each phase."""
    x, relevance = features(num_tokens, dim, torch.bfloat16), relevance_of(num_tokens)
    budget, results = num_tokens // 9, []
    launching = sys.modules["vllm_script.kernels._launch"]
    for by_phase in set(), {x.device}:
        monkeypatch.setattr(launching, "_by_phase", by_phase)
        pool = reduce_graph(x, num_tokens // 2, **SETTINGS)
        picks = greedy_map(x, relevance, budget, pool=pool, clusters=False)
        results.append((pool.counts, picks))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def _agree_with_cpu(inputs, count_ties):
    """The CPU's selection, but for ties in float64; returns how many of ours are no tie."""
    total_beyond_tie = 0
    for x, relevance in inputs:
        target, budget = len(x) // 2, len(x) // 9
        own = x.cuda(), relevance.cuda()
        picks, num_beyond_tie = assert_selection(*own, target, budget, "triton", **SETTINGS)
        pool = reduce_graph(x, target, **SETTINGS)
        reference = greedy_map(x, relevance, budget, pool=pool)
        count_ties(budget, num_differing(picks.cpu(), reference), num_beyond_tie)
        total_beyond_tie += num_beyond_tie
    return total_beyond_tie


def test_random_inputs_against_the_cpu(count_ties):
    def inputs():
        for seed in range(100):
            dtype = DTYPES[seed % 3]
            num_tokens, dim = ((576, 1024), (1000 + seed, 640), (2880, 4096))[seed % 10 // 4]
            x = features(num_tokens, dim, dtype, seed).cpu()
            yield x, relevance_of(num_tokens, seed).cpu()

    assert _agree_with_cpu(inputs(), count_ties) == 0


def test_real_inputs_against_the_cpu(count_ties):
    from .real_inputs import real_inputs

    _agree_with_cpu(((x.bfloat16(), relevance) for x, relevance in real_inputs(20)), count_ties)


@pytest.mark.parametrize("clusters", [True, False])
@pytest.mark.parametrize("num_images", [1, 8])
def test_a_thousand_runs_are_identical(num_images, clusters):
    x, relevance = llava_next_inputs(num_images)
    lengths = [NUM_TOKENS] * num_images

    def select():
        similarity = similarity_of(x, lengths)
        pool = kernels.reduce_graph(similarity, [NUM_TOKENS // 2] * num_images, **SETTINGS)
        budgets = [BUDGET] * num_images
        return kernels.greedy_map(similarity, relevance, budgets, pool=pool, clusters=clusters)

    first = select()
    same = torch.stack([(select() == first).all() for _ in range(1000)])
    assert same.all()


def test_other_kernels_run_beside_waiting_programs():
    """A stream that is never idle, so that multiprocessors come free one by one."""
    x, relevance = llava_next_inputs()
    side, matrix = torch.cuda.Stream(), torch.randn(4096, 4096, device="cuda")
    pool = reduce_graph(x, NUM_TOKENS // 2, **SETTINGS)
    expected = greedy_map(x, relevance, BUDGET, pool=pool)
    for _ in range(20):
        with torch.cuda.stream(side):
            for _ in range(20):
                matrix = (matrix @ matrix).clamp(-1, 1)
        pool = reduce_graph(x, NUM_TOKENS // 2, **SETTINGS)
        assert torch.equal(greedy_map(x, relevance, BUDGET, pool=pool), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_a_device_that_is_not_the_current_one():
    x, relevance = llava_next_inputs()
    pool = reduce_graph(x, NUM_TOKENS // 2, **SETTINGS)
    expected = greedy_map(x, relevance, BUDGET, pool=pool)
    x, relevance = x.to("cuda:1"), relevance.to("cuda:1")
    pool = reduce_graph(x, NUM_TOKENS // 2, **SETTINGS)
    picks = greedy_map(x, relevance, BUDGET, pool=pool)
    assert picks.device == x.device and torch.equal(picks.to(expected.device), expected)


def test_a_budget_beyond_the_registers_of_a_program():
    """The factor is re-read from memory at most steps."""
    x, relevance = llava_next_inputs()
    budget = NUM_TOKENS // 2
    picks = greedy_map(x, relevance, budget)
    assert assert_picks(x, relevance, torch.arange(NUM_TOKENS, device="cuda"), picks) == 0


@pytest.mark.parametrize("num_images", [1, 8])
def test_peak_memory(num_images):
    x, relevance = llava_next_inputs(num_images)
    lengths = [NUM_TOKENS] * num_images
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    similarity = similarity_of(x, lengths)
    pool = kernels.reduce_graph(similarity, [NUM_TOKENS // 2] * num_images, **SETTINGS)
    kernels.greedy_map(similarity, relevance, [BUDGET] * num_images, pool=pool)
    assert torch.cuda.max_memory_allocated() - before <= MEMORY * num_images


def test_farthest_first_and_greedy_cover():
    """Two images of which the second has every row twice."""
    x, relevance = llava_next_inputs()
    images = [x, x[: NUM_TOKENS // 2].repeat(2, 1)]
    weight = torch.cat([relevance, relevance[: NUM_TOKENS // 2].repeat(2)])
    similarity = kernels.cosine_similarity(images)
    for op, check in ((farthest_first, assert_farthest), (greedy_cover, assert_cover)):
        picks = op(similarity, [BUDGET, BUDGET], weight).split(BUDGET)
        check(images[0], relevance, picks[0])
        check(images[1], weight[NUM_TOKENS:], picks[1] - NUM_TOKENS)
        # A tie goes to the lowest index, so no row's copy is picked before the row.
        assert picks[1].max() < NUM_TOKENS + NUM_TOKENS // 2
        again = op(similarity, [BUDGET, BUDGET], weight).split(BUDGET)
        assert all(map(torch.equal, picks, again))


@pytest.mark.parametrize("geometry", ["raw", "centered"])
@pytest.mark.parametrize("mode", ["script", "gsp", "cdpruner", "coverage", "mmr", "divprune"])
def test_the_host_never_waits(mode, geometry):
    x, relevance = llava_next_inputs()

    def select():
        kept = run_mode(x, BUDGET, relevance, mode, PruningParams(geometry=geometry))
        return gather_rows(x, kept), query_relevance(x, x[:3])

    select()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rows, _ = select()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert rows.shape == (BUDGET, DIM)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer(tool):
    cuda = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=f"{cuda}/bin"
    )
    if sanitizer is None:
        pytest.skip("compute-sanitizer, of the CUDA toolkit, is not on PATH nor in CUDA_HOME")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable]
    command.append(str(Path(__file__).with_name("select_on_gpu.py")))
    env = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONSAFEPATH": "1"}
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
