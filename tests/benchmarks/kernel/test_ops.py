"""What is timed on a GPU, run in Triton's interpreter, and the gate before it."""

import pytest
import torch

from vllm_script.benchmarks.kernel import ops
from vllm_script.benchmarks.kernel.inputs import FULL, QUICK, SETTINGS, Shape, make_inputs, shapes
from vllm_script.benchmarks.kernel.ops import passes_gate, rounds_of, runs
from vllm_script.kernels import cosine_similarity, reduce_graph

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""On a CPU Triton's interpreter runs the kernels."""
SMALL = Shape(tokens=40, dim=32, keep_ratio=0.11, budget=5, batch=2)


@pytest.fixture(scope="module")
def inputs():
    return make_inputs(SMALL, DEVICE, torch.float32)


def test_everything_on_a_gpu_can_be_called(inputs):
    pytest.importorskip("triton")
    made = list(runs(inputs, on_gpu=True, baselines=True))
    named = [(run.op, run.variant) for run in made]
    all_ops = ["norms", "relevance", "similarity", "reduce_graph", "gather", "greedy_map"]
    all_ops += ["farthest_first", "greedy_cover", "selection"]
    assert [op for op, variant in named if variant == "triton"] == all_ops
    assert [op for op, variant in named if variant == "eager"] == all_ops
    assert named[len(all_ops) : len(all_ops) + 2] == [
        ("similarity", "mm float32"), ("selection", "one by one"),
    ]  # fmt: skip
    assert named[-2:] == [("selection", "compiled"), ("selection", "published")]
    selections = [run for run in made if run.op == "selection" and run.variant != "compiled"]
    selected = {run.variant: torch.cat(run.call()) for run in selections}
    for variant in ("one by one", "eager"):
        assert torch.equal(selected[variant], selected["triton"])
    assert selected["triton"].shape == (2 * SMALL.budget, SMALL.dim)
    for run in made[: len(all_ops) + 2]:
        run.call()


def test_baselines_are_left_out(inputs):
    made = list(runs(inputs, on_gpu=True, baselines=False))
    assert {run.variant for run in made} == {"triton", "mm float32", "one by one"}


def test_products_that_this_pytorch_cannot_compute_are_left_out():
    inputs = make_inputs(SMALL, torch.device("cpu"), torch.bfloat16)
    variants = [run.variant for run in runs(inputs, on_gpu=False, baselines=False)]
    assert variants == ["mm bfloat16"]  # to float32 on a GPU alone


@pytest.mark.parametrize("keep_ratio", [0.11, 0.5], ids=["of a pool", "all of the pool"])
def test_a_right_selection_passes(keep_ratio):
    shape = Shape(40, 32, keep_ratio, round(keep_ratio * 40), batch=3)
    for backend in ("triton", "torch"):
        assert passes_gate(make_inputs(shape, DEVICE, torch.float32), backend)


def test_a_wrong_pick_in_a_batch_is_found(inputs, monkeypatch, capsys):
    select = ops._select

    def last_pick_wrong(*arguments):
        similarity, pool, picks = select(*arguments)
        left = pool.rows[SMALL.tokens :][: SMALL.target]
        picks[-1] = left[~torch.isin(left, picks)][0]
        return similarity, pool, picks

    monkeypatch.setattr(ops, "_select", last_pick_wrong)
    assert not passes_gate(inputs, "torch")
    assert "the selection is wrong, so it is not timed: step 4" in capsys.readouterr().out


def test_rounds(inputs):
    wanted = rounds_of(inputs, "torch")
    similarity = cosine_similarity(inputs.images)
    counts = [
        reduce_graph(similarity, [20, 20], **SETTINGS, num_rounds=number).counts.tolist()
        for number in (wanted - 1, wanted, wanted + 1)
    ]
    assert wanted > 1 and counts[0] != counts[1] == counts[2]


def test_shapes():
    on_gpu = [len(list(shapes(quick, True))) for quick in (True, False)]
    assert on_gpu == [4, 72]
    assert {shape.tokens for shape in shapes(False, True, [576])} == {576}
    for chosen in (QUICK, FULL):  # what is promised of a GPU is measured
        assert 2880 in chosen[0] and 4096 in chosen[1] and {1, 8} <= set(chosen[3])
    llava = [shape for shape in shapes(True, True) if shape.tokens == 2880]
    assert {(shape.dim, shape.budget, shape.target) for shape in llava} == {(4096, 322, 1440)}
