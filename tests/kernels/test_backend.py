from types import SimpleNamespace

import pytest
import torch

from vllm_script.kernels import _triton as shim
from vllm_script.kernels import gather_rows, inverse_norms, query_relevance

from .ops import greedy_map, reduce_graph, similarity_of

ROWS, ALL = torch.eye(4), slice(None)
SETTINGS = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}
OPS = {
    "norms": lambda backend: inverse_norms(ROWS, backend=backend),
    "reduce_graph": lambda backend: reduce_graph(ROWS, 2, **SETTINGS, backend=backend).counts,
    "similarity": lambda backend: similarity_of(ROWS, backend=backend).block(0, ALL, ALL),
    "relevance": lambda backend: query_relevance(ROWS, ROWS, backend=backend),
    "greedy_map": lambda backend: greedy_map(ROWS, None, 2, backend=backend),
    "gather": lambda backend: gather_rows(ROWS, torch.tensor([1]), backend=backend),
}


@pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
def test_explicit_triton_never_falls_back(op, monkeypatch):
    monkeypatch.setattr(shim, "HAS_TRITON", False)
    with pytest.raises(ImportError, match="needs Triton"):
        op("triton")
    assert torch.equal(op("auto"), op("torch"))


@pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())
def test_unknown_backend_error(op):
    with pytest.raises(ValueError, match="backend must be one of auto, triton, torch, got 'cuda'"):
        op("cuda")


def test_triton_on_cpu_error(monkeypatch):
    monkeypatch.setattr(shim.triton.knobs.runtime, "interpret", False)
    with pytest.raises(ValueError, match="needs tensors on an NVIDIA GPU, got one on cpu;"):
        OPS["gather"]("triton")


def test_rocm_is_no_cuda(monkeypatch):
    """On ROCm tensors say that they are on CUDA."""
    monkeypatch.setattr(shim.triton.knobs.runtime, "interpret", False)
    x = SimpleNamespace(is_cuda=True, device="cuda:0")
    assert shim.use_triton("auto", x) and shim.use_triton("triton", x)
    monkeypatch.setattr(torch.version, "hip", "7.1")
    assert not shim.use_triton("auto", x)
    with pytest.raises(ValueError, match="NVIDIA GPU, got one on cuda:0 of ROCm; use"):
        shim.use_triton("triton", x)


def test_auto_is_the_reference_on_the_cpu(monkeypatch):
    assert not shim.use_triton("auto", ROWS)
    assert shim.use_triton("auto", torch.empty(0, device="meta")) is False


@pytest.mark.parametrize("op", [gather_rows, similarity_of, inverse_norms, query_relevance])
def test_rows_must_be_contiguous_inside(op):
    columns = torch.ones(4, 8)[:, ::2]
    arguments = {
        inverse_norms: (columns,),
        gather_rows: (columns, torch.tensor([0])),
        similarity_of: (columns,),
        query_relevance: (columns, columns),
    }
    with pytest.raises(ValueError, match="contiguous last dim"):
        op(*arguments[op])
