import pytest
import torch

from vllm_script.kernels import inverse_norms, unit_rows

BACKENDS = ["torch", "triton"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_inverse_norms_by_hand(backend):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [torch.nan, 2.0], [torch.inf, torch.nan]])
    assert inverse_norms(rows, backend).tolist() == pytest.approx([0.2, 0.0, -0.5, 0.0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scale", [3e38, 1e-30], ids=["overflow", "underflow"])
def test_inverse_norms_out_of_range_are_zero(backend, scale):
    assert inverse_norms(torch.full((2, 64), scale), backend).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(1, 1), (63, 100), (5, 1025), (3, 4096), (0, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_inverse_norms_kernel(shape, dtype, assert_as_accurate):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * shape[0], shape[1], generator=generator).to(dtype)[::2]
    actual = inverse_norms(x, "triton")
    assert actual.dtype == torch.float32 and actual.shape == shape[:1]
    if len(x):
        assert_as_accurate(actual, inverse_norms(x, "torch"), 1 / x.double().norm(dim=1))


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
def test_unit_rows_out_of_range_norm_is_zero(scale):
    assert not unit_rows(torch.full((2, 64), scale)).any()
