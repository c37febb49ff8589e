"""What a pruned model returns for the items of a step, and what it sees of memory at start-up."""

import itertools

import pytest
import torch

from vllm_script.pruning import groups, windows

from .stand_in import CASES, Cpu, Cuda, arguments, model_of, pack_item

ASKED = [
    {},
    {"mode": "gsp", "keep_ratio": 0.5},
    None,
    {"relevance": "none"},
    {"mode": "cdpruner", "keep_ratio": None, "visual_token_budget": 3},
    {"keep_ratio": 0.9, "query": (4, 5, 9)},
    {"mode": "divprune"},
    {"mode": "random"},
    {"relevance": "embedding"},
    {"mode": "uniform"},
    {"query": (1, 2)},
    {"mode": "cdpruner"},
]
"""Changes of the settings for each item of a step; None leaves it whole."""

ORDERS = (range(12), range(11, -1, -1), [5, 5, 2, 0])


def check_a_step(machine, kernels, case, orders):
    """Rows of items of several sizes, under different plans: one by one, and together."""
    architecture, modality, config, fields = CASES[case]
    with machine.running():
        model = model_of(architecture, config, machine, kernels=kernels)
        items = [
            (own, None if changes is None else pack_item(model, modality, own, **changes))
            for own, changes in zip(itertools.cycle(fields), ASKED, strict=False)
        ]
        places = sorted(set(itertools.chain(*orders)))
        alone = {
            place: model.embed_multimodal(**arguments(machine, modality, items[place]))[0]
            for place in places
        }
        for order in orders:
            batch = arguments(machine, modality, *(items[place] for place in order))
            together = model.embed_multimodal(**batch)
            for place, rows in zip(order, together, strict=True):
                assert torch.equal(rows, alone[place])
                item = items[place][1]
                assert item is None or len(rows) == item.count
    different = {rows.cpu().numpy().tobytes() for rows in alone.values()}
    assert len(different) > len(places) // 2


@pytest.fixture(params=[8192, 40], ids=["whole", "in windows"])
def _most(request, monkeypatch):
    """Windows of 8,192 tokens, or of 40: then most items are several, and a step many groups."""
    for module in (windows, groups):
        monkeypatch.setattr(module, "MAX_TOKENS", request.param)


@pytest.mark.usefixtures("_most")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("machine", [Cpu, pytest.param(Cuda, marks=pytest.mark.gpu)])
def test_rows_do_not_depend_on_what_else_is_in_the_step(machine, case):
    check_a_step(machine(), "auto", case, ORDERS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU, see above")
@pytest.mark.usefixtures("_most")
@pytest.mark.parametrize("case", ["LLaVA-NeXT, CLIP", "Qwen2.5-VL, video"])
def test_nor_do_rows_that_kernels_choose(case):
    """In Triton's interpreter; groups of three images, of one, and two videos."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernels")
    check_a_step(Cpu(), "triton", case, [(0, 5, 8, 3)])
