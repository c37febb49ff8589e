import pytest
import torch

from vllm_script.kernels import gather_rows

DTYPES = [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.int8),
    *(torch.float8_e4m3fn, torch.complex128),
]


@pytest.mark.parametrize(
    "backend, dtype",
    [
        (backend, dtype)
        for backend in ("torch", "triton")
        for dtype in DTYPES
        # PyTorch's own index_select has no float8 on the CPU.
        if (backend, dtype) != ("torch", torch.float8_e4m3fn)
    ],
    ids=str,
)
def test_gather_rows_copies_bits(backend, dtype):
    x = torch.randn(50, 101, generator=torch.Generator().manual_seed(0)).to(dtype)[::2]
    indices = [3, 3, 24, 0]
    rows = gather_rows(x, torch.tensor(indices), backend)
    assert rows.dtype == dtype and rows.is_contiguous()
    expected = torch.stack([x[index] for index in indices])
    assert torch.equal(rows.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4097), (4, 0)], ids=str)
@pytest.mark.parametrize("num_rows", [0, 1, 3])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_gather_rows_shapes(backend, shape, num_rows, index_dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    strided = torch.arange(2 * num_rows, dtype=index_dtype)[::2] % len(x)
    rows = gather_rows(x, strided, backend)
    assert torch.equal(rows, x[strided.long()])


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_gather_rows_keeps_nothing_else_alive(backend):
    x = torch.zeros(100, 8)
    rows = gather_rows(x, torch.arange(100), backend)
    assert rows.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert rows.untyped_storage().nbytes() == x.numel() * x.itemsize


@pytest.mark.parametrize(
    "indices", [torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor([True])]
)
def test_gather_rows_index_error(indices):
    with pytest.raises(ValueError, match=r"indices must be \[K\] of int32 or int64"):
        gather_rows(torch.zeros(2, 2), indices)
