"""The first layer of vLLM's language model: found, refused, and shared out to ranks."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vllm_script.worker.first_layer import first_layer

RANK = """
import json, sys, torch
from types import SimpleNamespace
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.distributed import tensor_model_parallel_all_reduce as all_reduce
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import QKVParallelLinear
from vllm_script.relevance.lm_attention import LmAttention
from vllm_script.worker.first_layer import first_layer

WIDTH, SIZE, HEADS = 16, 8, 4
rank, num_ranks, store, cases = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
found = []
with set_current_vllm_config(VllmConfig()), torch.no_grad():
    init_distributed_environment(num_ranks, rank, f"file://{store}", rank, "gloo")
    initialize_model_parallel(num_ranks)
    for kv_heads, head_norms in json.loads(cases):
        torch.manual_seed(0)
        projection = QKVParallelLinear(WIDTH, SIZE, HEADS, kv_heads, bias=True)
        for shard, heads in ("q", HEADS), ("k", kv_heads), ("v", kv_heads):
            weight, bias = torch.randn(heads * SIZE, WIDTH), torch.randn(heads * SIZE)
            projection.weight.weight_loader(projection.weight, weight, shard)
            projection.bias.weight_loader(projection.bias, bias, shard)
        projection.quant_method.process_weights_after_loading(projection)
        norms = [RMSNorm(size) for size in (WIDTH, SIZE, SIZE)]
        for norm in norms:
            norm.weight.copy_(torch.rand_like(norm.weight) + 0.5)
        attention = SimpleNamespace(qkv_proj=projection)
        if head_norms:
            attention.q_norm, attention.k_norm = norms[1:]
        layer = SimpleNamespace(input_layernorm=norms[0], self_attn=attention)
        model = SimpleNamespace(model=SimpleNamespace(layers=[layer]))
        score = LmAttention(first_layer(model), all_reduce)
        relevance = score(torch.randn(30, WIDTH), [torch.randn(5, WIDTH), torch.randn(2, WIDTH)])
        found.append(relevance.tolist())
print(json.dumps(found))
"""

CASES = [(kv_heads, head_norms) for kv_heads in (4, 2, 1) for head_norms in (False, True)]
"""Key heads, of four query heads, and whether queries and keys have norms. Two ranks have two key
heads each, one each, and the same one."""


def relevance_of_ranks(num_ranks, store):
    """What each rank computes, of every case."""
    env = os.environ | {"VLLM_DIST_IDENT": store.name}  # vLLM's name of the memory ranks share
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-P", "-c", RANK, str(rank), str(num_ranks), str(store)),
                json.dumps(CASES),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for rank in range(num_ranks)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def test_ranks_agree_with_one_rank(tmp_path):
    """vLLM's own projection, of which every rank has some of the heads."""
    (alone,) = relevance_of_ranks(1, tmp_path / f"{os.getpid()}-one")
    first, second = relevance_of_ranks(2, tmp_path / f"{os.getpid()}-two")
    assert first == second
    assert len({tuple(case) for case in alone}) == len(CASES)
    torch.testing.assert_close(torch.tensor(first), torch.tensor(alone), atol=2e-6, rtol=0)


class Odd:
    """A language model with what it is given."""

    def __init__(self, **layer):
        self.model = SimpleNamespace(layers=[SimpleNamespace(**layer)])


def projection(head_size=8):
    return SimpleNamespace(num_heads=4, num_kv_heads=2, head_size=head_size)


@pytest.mark.parametrize(
    "language_model",
    [
        pytest.param(SimpleNamespace(), id="no model within"),
        pytest.param(SimpleNamespace(model=SimpleNamespace(layers=[])), id="no layer"),
        pytest.param(Odd(attention_norm=None, attention=None), id="InternLM2's names"),
        pytest.param(
            Odd(input_layernorm=None, self_attn=SimpleNamespace(qkv_proj=nn.Linear(2, 2))),
            id="no heads",
        ),
        pytest.param(
            Odd(
                input_layernorm=None,
                self_attn=SimpleNamespace(qkv_proj=projection(), q_norm=nn.RMSNorm(32)),
            ),
            id="a norm of all heads together",
        ),
        pytest.param(
            Odd(
                input_layernorm=None,
                self_attn=SimpleNamespace(qkv_proj=projection(), num_heads=2),
            ),
            id="a gate for every query, as in Qwen3.5",
        ),
        pytest.param(Odd(input_layernorm=None, linear_attn=None), id="Qwen3.5's gated delta net"),
    ],
)
def test_another_first_layer_is_refused_in_a_line(language_model):
    with pytest.raises(ValueError, match="--script-relevance embedding$") as error:
        first_layer(language_model)
    assert type(language_model).__name__ in str(error.value)
    assert "\n" not in str(error.value)
