"""Greedy MAP by clusters, on any machine: select.cu as it is, with threads that are emulated.

emulated/device.h runs them in any order, some blocks later than others, and lets stores arrive late
and in any order. What only a GPU can show is in test_gpu.py.
"""

import ctypes
import importlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from vllm_script.kernels import Pool, cosine_similarity, greedy_map
from vllm_script.kernels.testing import assert_picks

CLUSTER_MODULE = importlib.import_module("vllm_script.kernels.greedy_map.cluster")
GREEDY_MAP = importlib.import_module("vllm_script.kernels.greedy_map")
SOURCE = Path(__file__).with_name("emulated") / "select.cpp"
CLUSTER, WARPS = 2, 2
ROOM = CLUSTER * WARPS * CLUSTER_MODULE.MANY.tokens
"""Tokens of the largest image that so small a cluster has room for."""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """library() -> the emulated kernel, for the constants that the module has at the moment."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++, which compiles the emulation: install GCC's C++ compiler")
    made = {}

    def library():
        constants = CLUSTER_MODULE.constants(CLUSTER)
        defined = [f"-D{name}={value}" for name, value in constants.items()]
        path = tmp_path_factory.getbasetemp() / f"select{''.join(defined)}.so"
        if path not in made:
            command = ["g++", "-O2", "-std=c++17", "-shared", "-fPIC", *defined, SOURCE, "-o", path]
            subprocess.run(command, check=True, capture_output=True)
            kinds = ctypes.c_uint, ctypes.c_int, ctypes.c_int, *CLUSTER_MODULE._Kernel.KINDS
            made[path] = ctypes.CDLL(path).emulate
            made[path].argtypes, made[path].restype = kinds, ctypes.c_bool
        return made[path]

    return library


@pytest.fixture
def launches(library, monkeypatch):
    """A GPU with clusters that are as small as can be; yields what is launched on it."""
    seen = []

    def kernel(device, cluster):
        def launch(num_images, shared_bytes, arguments):
            seen.append(num_images)
            blocks = cluster * num_images
            came_to_its_end = library()(len(seen), blocks, shared_bytes, *arguments)
            assert came_to_its_end, "threads wait for ever, or write beyond their shared memory"

        return launch

    monkeypatch.setattr(CLUSTER_MODULE, "WARPS", WARPS)
    monkeypatch.setattr(CLUSTER_MODULE, "CLUSTERS", (CLUSTER,))
    monkeypatch.setattr(CLUSTER_MODULE, "_kernel", kernel)
    monkeypatch.setattr(GREEDY_MAP, "has_clusters", lambda device: True)
    return seen


def number(low, high, generator):
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def image_of(num_tokens, generator):
    """Rows of which some are equal, some alike, and which may span fewer dimensions than asked."""
    centres = torch.randn(max(1, num_tokens // 3), number(4, 60, generator), generator=generator)
    rows = 0.3 + centres[torch.randint(len(centres), (num_tokens,), generator=generator)]
    is_alike = torch.rand(num_tokens, 1, generator=generator) > 0.3
    rows += 0.3 * is_alike * torch.randn(rows.shape, generator=generator)
    rows[torch.rand(num_tokens, generator=generator) < 0.02] = 0.0
    return rows


def relevance_of(kind, num_tokens, generator):
    if kind == "none":
        return None
    if kind == "constant":
        return torch.full((num_tokens,), 0.7)
    return (torch.rand(num_tokens, generator=generator) - 0.3).clamp(min=0.0)


@pytest.mark.parametrize("kind", ["none", "constant", "many are 0"])
@pytest.mark.parametrize("with_pool", [False, True], ids=["all", "pool"])
def test_picks_are_those_of_float64(kind, with_pool, launches):
    generator = torch.Generator().manual_seed(int(with_pool))
    for _ in range(8):
        num_tokens = number(1, ROOM, generator)
        x, budget = image_of(num_tokens, generator), number(1, num_tokens, generator)
        relevance, pool, candidates = relevance_of(kind, num_tokens, generator), None, None
        if with_pool:
            order = torch.randperm(num_tokens, generator=generator)
            candidates = order[: number(budget, num_tokens, generator)].sort().values
            rows = torch.cat([candidates, torch.full((num_tokens - len(candidates),), 2**40)])
            pool = Pool(rows, torch.tensor([len(candidates)]))
        similarity = cosine_similarity([x], backend="triton")
        picks = greedy_map(similarity, relevance, [budget], pool=pool)
        if pool is not None and len(candidates) == budget:
            assert torch.equal(picks, candidates)
        else:
            candidates = torch.arange(num_tokens) if pool is None else candidates
            assert assert_picks(x, relevance, candidates, picks) == 0
    assert len(launches) == 8


def test_an_image_gets_what_it_gets_alone(launches):
    generator = torch.Generator().manual_seed(0)
    lengths = [1, 40, ROOM, 17, ROOM + 1]  # the last one is for Triton
    budgets = [1, 11, 30, 17, 9]
    images = [image_of(length, generator) for length in lengths]
    width = max(x.shape[1] for x in images)
    images = [torch.nn.functional.pad(x, (0, width - x.shape[1])) for x in images]
    relevance = torch.rand(sum(lengths), generator=generator)
    similarity = cosine_similarity(images, backend="triton")
    together = greedy_map(similarity, relevance, budgets).split(budgets)
    assert launches == [4]
    first = 0
    for x, budget, picks in zip(images, budgets, together, strict=True):
        own = relevance[first : first + len(x)]
        alone = greedy_map(cosine_similarity([x], backend="triton"), own, [budget])
        assert torch.equal(picks - first, alone)
        first += len(x)


def test_budgets_of_one_launch_may_differ(launches, monkeypatch):
    """One image has the longest row, the other most of its factor in shared memory."""
    monkeypatch.setattr(CLUSTER_MODULE, "WARPS", 4)
    for name, blocks in ("FEW", 2), ("MANY", 1):
        split = getattr(CLUSTER_MODULE, name)._replace(blocks=blocks)
        monkeypatch.setattr(CLUSTER_MODULE, name, split)
    generator = torch.Generator().manual_seed(0)
    lengths, budgets = [ROOM, 2 * ROOM], [ROOM, 64]
    x = torch.randn(sum(lengths), 64, generator=generator)
    similarity = cosine_similarity(x.split(lengths), backend="triton")
    picks = greedy_map(similarity, None, budgets).split(budgets)
    for first, own, length in zip((0, lengths[0]), picks, lengths, strict=True):
        rows = x[first : first + length]
        assert assert_picks(rows, None, torch.arange(length), own - first) == 0
    assert launches == [2]


def test_equal_rows_tie(launches):
    """The lowest index first, whoever has the tokens, also where a sum has many terms."""
    x = torch.randn(30, 48, generator=torch.Generator().manual_seed(0)).repeat(3, 1)
    similarity = cosine_similarity([x], backend="triton")
    # NumPy, which the interpreter multiplies with, adds up otherwise in other places of a tile.
    cosines = similarity.block(0, slice(30), slice(30)).repeat(3, 3)
    similarity.values.copy_(cosines[*torch.tril_indices(90, 90)])
    assert greedy_map(similarity, None, [30]).max() < 30


def test_floors_are_for_triton(launches):
    similarity = cosine_similarity([torch.eye(8)], backend="triton")
    greedy_map(similarity, None, [4], floors=[2, 2])
    greedy_map(similarity, None, [4], clusters=False)
    assert launches == []


@pytest.mark.parametrize("num_tokens", [48, 90])
def test_columns_beyond_the_registers(num_tokens, launches, monkeypatch):
    """What registers have no room for is in shared memory, and changes no bit."""
    x = image_of(num_tokens, torch.Generator().manual_seed(0))
    similarity = cosine_similarity([x], backend="triton")
    picks = greedy_map(similarity, None, [num_tokens])
    for name in "FEW", "MANY":
        split = getattr(CLUSTER_MODULE, name)._replace(blocks=1)
        monkeypatch.setattr(CLUSTER_MODULE, name, split)
    assert CLUSTER_MODULE.MANY.shared_values(num_tokens) > 0
    assert torch.equal(greedy_map(similarity, None, [num_tokens]), picks)
    assert assert_picks(x, None, torch.arange(num_tokens), picks) == 0


@pytest.mark.parametrize(
    ("length", "budget", "cluster"),
    [
        (1, 1, 4),
        (576, 64, 4),
        (768, 300, 4),
        (769, 300, 8),
        (1296, 143, 8),
        (576, 500, 8),
        (2880, 322, 16),
        (3072, 480, 16),
        (3072, 481, None),
        (1536, 900, 16),
        (3073, 1, None),
    ],
)
def test_the_smallest_cluster_with_room(length, budget, cluster):
    assert CLUSTER_MODULE.cluster_of(length, budget) == cluster


@pytest.mark.parametrize("capability", [(9, 0), (10, 0)], ids=str)
@pytest.mark.parametrize("cluster", CLUSTER_MODULE.CLUSTERS)
def test_it_compiles_without_spills(capability, cluster, tmp_path):
    install = "is missing: install this project with its extra dev"
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason=f"cuda-bindings {install}")
    triton = pytest.importorskip("triton", reason="there is no Triton, which brings cuobjdump")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # of the library that it loads
        pytest.skip(f"nvidia-cuda-nvrtc {install} ({error})")
    code = tmp_path / "select.cubin"
    code.write_bytes(CLUSTER_MODULE.compiled(capability, cluster))
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [tool, "--dump-resource-usage", code]
    usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (registers,) = map(int, re.findall(r"REG:(\d+)", usage))
    assert registers * 32 * CLUSTER_MODULE.WARPS <= 65536
    assert re.findall(r"STACK:(\d+)", usage) == ["0"] and re.findall(r"LOCAL:(\d+)", usage) == ["0"]
