"""Modelled operations, against those that PyTorch counts when a tower runs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vllm_script.benchmarks.thinning.flops import LLAVA_NEXT_7B, QWEN2_5_VL_7B, Shape, flops
from vllm_script.benchmarks.thinning.hook import Cut, thinned_after


@pytest.mark.parametrize("cut", [None, Cut(1, 0.5), Cut(2, 0.25)])
@torch.no_grad()
def test_operations_of_a_clip(cut):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=4,
        attn_implementation="eager",
    )
    tower = CLIPVisionModel(config).eval()
    with FlopCounterMode(display=False) as counter:
        if cut is None:
            tower(torch.zeros(2, 3, 32, 32))
        else:
            kept = torch.arange(cut.count(64))
            with thinned_after(tower.encoder.layers, cut.after, 64, lambda states: [kept]):
                tower(torch.zeros(2, 3, 32, 32))
    shape = Shape(3, 32, 48, 2, pixels=3 * 16, patches=64, sequences=2, class_tokens=1)
    assert flops(shape, cut) == counter.get_total_flops()


def test_windows():
    """Of four layers two see all patches: the second and the fourth."""
    shape = Shape(4, 8, 16, 3, pixels=12, patches=64, window=16, full=2)
    linear = 4 * 64 * 2 * (4 * 64 + 3 * 8 * 16)
    attention = 2 * 4 * 8 * 64 * (64 + 16)
    assert flops(shape) == 2 * 64 * 12 * 8 + linear + attention
    half = flops(shape, Cut(2, 0.5))
    gone = linear // 4 + 4 * 8 * (64 * (64 + 16) - 32 * (32 + 8))
    assert half == flops(shape) - gone


def test_published_shapes():
    """Whole towers, within a percent of a sum by hand: 23 and 32 layers, as published."""
    assert flops(LLAVA_NEXT_7B) == pytest.approx(1.95e12, rel=0.01)
    assert flops(QWEN2_5_VL_7B) == pytest.approx(7.26e12, rel=0.01)
