"""Cosines of the tokens of an image with each other, by both backends, against float64."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vllm_script.kernels import cosine_similarity
from vllm_script.kernels._triton import jit, tl
from vllm_script.kernels.greedy_map import RESIDUAL_FLOOR
from vllm_script.kernels.similarity import MOST_TOKENS, RowSimilarity, TriangleSimilarity
from vllm_script.kernels.similarity import rows as similarity_rows
from vllm_script.kernels.similarity.kernel import tile_of_triangle, triangle_offset
from vllm_script.kernels.testing import unit_rows64

from .ops import similarity_of

BACKENDS = ["torch", "triton"]
# The interpreter is NumPy, which has no bfloat16 to multiply.
DTYPES = {
    "triton": [torch.float32, torch.float16],
    "torch": [torch.float32, torch.float16, torch.bfloat16],
}
CASES = [(backend, dtype) for backend, dtypes in DTYPES.items() for dtype in dtypes]
ALL = slice(None)


def rows_of(num_tokens, dim, dtype=torch.float32):
    """Strided rows with a common offset, so that not all are orthogonal."""
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2 * num_tokens, dim, generator=generator) + 0.5).to(dtype)[::2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_cosines_by_hand(backend):
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [6.0, 8.0], [-2.0, 0.0]])
    similarity = similarity_of(rows, backend=backend)
    expected = [[1.0, 0.0, 0.6, -1.0], [0.0] * 4, [0.6, 0.0, 1.0, -0.6], [-1.0, 0.0, -0.6, 1.0]]
    torch.testing.assert_close(similarity.block(0, ALL, ALL), torch.tensor(expected))
    assert similarity.has_length(0).tolist() == [True, False, True, True]
    kind = {"torch": RowSimilarity, "triton": TriangleSimilarity}[backend]
    assert isinstance(similarity, kind)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_block_is_of_the_rows_and_columns_asked_for(backend):
    rows = rows_of(40, 24)
    similarity = similarity_of(rows, backend=backend)
    everything = similarity.block(0, ALL, ALL)
    some, others = torch.tensor([5, 0, 39]), torch.arange(1, 40, 2)
    torch.testing.assert_close(similarity.block(0, some, others), everything[some][:, others])
    torch.testing.assert_close(similarity.block(0, slice(3, 9), ALL), everything[3:9])


@pytest.mark.parametrize("dtype", DTYPES["torch"], ids=str)
def test_the_cosines_of_two_halves_are_kept(dtype, monkeypatch, assert_as_accurate):
    """A later block has these to the bit, and the others as they are without them."""
    monkeypatch.setattr(similarity_rows, "STRIP_ROWS", 32)
    rows, generator = rows_of(301, 40, dtype), torch.Generator().manual_seed(1)
    first, second = torch.randperm(301, generator=generator).sort().indices.tensor_split([150])
    unit = unit_rows64(rows)
    exact, reference = unit @ unit.T, similarity_of(rows, backend="torch").block(0, ALL, ALL)
    for most, pairs in ((301, 0), (300, 150 * 151)):
        monkeypatch.setattr(similarity_rows, "MOST_KEPT", most)
        similarity = similarity_of(rows, backend="torch")
        halves = similarity.block(0, first, second)
        some, others = (torch.randperm(301, generator=generator)[:n] for n in (100, 120))
        for asked, columns in ((some, others), (some, some)):
            block = similarity.block(0, asked, columns)
            expected = (x[asked][:, columns] for x in (reference, exact))
            assert_as_accurate(block, *expected)
        computed, compute = [], similarity._cosines

        def counted(image, rows, columns, computed=computed, compute=compute):
            computed.append(len(rows) * len(columns))
            return compute(image, rows, columns)

        monkeypatch.setattr(similarity, "_cosines", counted)
        assert torch.equal(similarity.block(0, first, second), halves)
        assert sum(computed) == pairs


def test_cosines_of_tokens_with_each_other_are_symmetric(monkeypatch):
    monkeypatch.setattr(similarity_rows, "STRIP_ROWS", 32)
    square = similarity_of(rows_of(101, 40), backend="torch").block(0, ALL, ALL)
    assert torch.equal(square, square.T)


@pytest.mark.parametrize("num_tokens, dim", [(1, 1), (63, 63), (130, 300)])
@pytest.mark.parametrize("dtype", DTYPES["triton"], ids=str)
def test_kernel(num_tokens, dim, dtype, assert_as_accurate):
    _compare(rows_of(num_tokens, dim, dtype), assert_as_accurate)


@pytest.mark.parametrize("num_tokens, dim", [(576, 1024), (2928, 256)])
@pytest.mark.parametrize("dtype", DTYPES["triton"], ids=str)
def test_kernel_large(num_tokens, dim, dtype, large_tiles, assert_as_accurate):
    _compare(rows_of(num_tokens, dim, dtype), assert_as_accurate)


def _compare(rows, assert_as_accurate):
    actual, reference = (
        similarity_of(rows, backend=backend).block(0, ALL, ALL) for backend in ("triton", "torch")
    )
    unit = unit_rows64(rows)
    assert_as_accurate(actual, reference, unit @ unit.T)
    assert torch.equal(actual, actual.T)
    assert (actual.diagonal() == 1).all()


def test_bfloat16_rows_on_a_cpu_are_as_accurate_as_float32(assert_as_accurate):
    """Their products are exact in float32, by whatever instructions the processor has."""
    rows = rows_of(300, 512, torch.bfloat16)
    unit, others = unit_rows64(rows), ~torch.eye(300, dtype=torch.bool)
    actual, reference = (
        similarity_of(x, backend="torch").block(0, ALL, ALL)[others] for x in (rows, rows.float())
    )
    assert_as_accurate(actual, reference, (unit @ unit.T)[others])


@pytest.mark.parametrize("dtype", DTYPES["torch"], ids=str)
def test_a_copy_of_a_picked_row_leaves_less_than_the_floor(dtype):
    rows = rows_of(200, 4096).to(dtype)
    similarity = similarity_of(rows.repeat(2, 1), backend="torch")
    with_copy = similarity.block(0, slice(0, 200), slice(200, 400)).diagonal().double()
    assert (1 - with_copy.square()).abs().max() < RESIDUAL_FLOOR / 2


def test_a_setting_of_others_stays_as_it_is():
    before = torch.backends.mkldnn.matmul.fp32_precision
    rows = rows_of(64, 512).bfloat16().float()  # whose rounding would not show; those below would
    rows[:, 1::2] += 1e-3 * torch.rand(64, 256, generator=torch.Generator().manual_seed(1))
    product = rows @ rows.T
    similarity_of(rows.bfloat16(), backend="torch").block(0, ALL, ALL)
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert torch.equal(rows @ rows.T, product)


def test_threads_do_not_leave_the_setting_to_others():
    rows = rows_of(256, 512, torch.bfloat16)
    before = torch.backends.mkldnn.matmul.fp32_precision

    def blocks(_):
        similarity = similarity_of(rows, backend="torch")
        return [similarity.block(0, ALL, ALL) for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(blocks, range(4)))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


@pytest.mark.parametrize("backend, dtype", CASES, ids=str)
def test_bad_features_count_as_zero(backend, dtype):
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(90, 40, generator=generator).to(dtype)
    bad = torch.rand(90, 40, generator=generator) < 0.02
    clean[bad] = 0.0
    spoiled = clean.masked_fill(bad, torch.nan)
    spoiled[7, 3], clean[7, 3] = torch.inf, 0.0
    if dtype != torch.float16:
        spoiled[8], clean[8] = 3e38, 0.0  # its length leaves the range of float32
    ours, expected = (similarity_of(rows, backend=backend) for rows in (spoiled, clean))
    torch.testing.assert_close(ours.block(0, ALL, ALL), expected.block(0, ALL, ALL))
    assert torch.equal(ours.has_length(0), expected.has_length(0))


@pytest.mark.parametrize("backend, dtype", CASES, ids=str)
def test_integers_are_exact(backend, dtype):
    """Rows of 4, 16 or 64 times +-1: cosines are exact."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(140, 64)
    for row in rows:
        size = 4 ** int(torch.randint(1, 4, (1,), generator=generator))
        places = torch.randperm(64, generator=generator)[:size]
        row[places] = torch.randint(2, (size,), generator=generator) * 2.0 - 1.0
    unit = rows / rows.norm(dim=1, keepdim=True)
    similarity = similarity_of(rows.to(dtype), backend=backend)
    assert torch.equal(similarity.block(0, ALL, ALL), unit @ unit.T)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_is_what_it_is_alone(backend):
    lengths = [1, 150, 39, 5]
    rows = rows_of(sum(lengths), 40)
    together = similarity_of(rows, lengths, backend=backend)
    for image, own in enumerate(rows.split(lengths)):
        alone = similarity_of(own, backend=backend).block(0, ALL, ALL)
        assert torch.equal(together.block(image, ALL, ALL), alone)


def test_every_tile_of_a_triangle_is_found():
    """Also of the largest: the root that finds its row is rounded."""
    num_blocks = -(-MOST_TOKENS // 64)
    pairs = torch.tril_indices(num_blocks, num_blocks)  # row by row
    for start in range(0, pairs.shape[1] - 4095, 4096):
        tiles = torch.empty(2, 4096, dtype=torch.int32)
        _tiles_kernel[(1,)](tiles, start, BLOCK=4096)
        assert torch.equal(tiles.long(), pairs[:, start : start + 4096])


def test_the_last_place_of_every_row_is_found():
    """Of as many tokens as an image may have, in 32-bit integers."""
    places, rows = torch.empty(1 << 16, dtype=torch.int32), torch.arange(MOST_TOKENS)
    _places_kernel[(1,)](places, BLOCK=1 << 16)
    assert torch.equal(places[:MOST_TOKENS].long(), rows * (rows + 1) // 2 + rows)
    assert places[MOST_TOKENS] < 0  # one more does not fit


@jit
def _places_kernel(places_ptr, BLOCK: tl.constexpr):
    row = tl.arange(0, BLOCK)
    tl.store(places_ptr + row, triangle_offset(row, row))


@jit
def _tiles_kernel(tiles_ptr, start, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    row, column = tile_of_triangle(start + place)
    tl.store(tiles_ptr + place, row)
    tl.store(tiles_ptr + BLOCK + place, column)


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "an image at least"),
        ([torch.ones(4, 8)[:, ::2]], "contiguous last dim"),
        ([torch.ones(4, 8).double()], "images must be float32, float16 or bfloat16"),
        ([torch.ones(1, 1).expand(MOST_TOKENS + 1, 1)], "at most 46341 tokens, got 46342"),
        ([torch.ones(4, 8), torch.ones(4, 8).half()], "one dtype, row length and device"),
        ([torch.ones(4, 8), torch.ones(4, 16)[:, :9]], r"got \(4, 8\) .* and \(4, 9\)"),
    ],
)
def test_errors(images, message):
    with pytest.raises(ValueError, match=message):
        cosine_similarity(images)
