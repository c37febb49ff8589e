"""Prompt replacements with fewer placeholders: text between them stays."""

import pytest
from vllm.multimodal.processing.processor import PromptUpdateDetails

from vllm_script.frontend.placeholders import shortened

START, PAD, END = 1, 2, 3


def test_a_single_run():
    assert shortened([PAD] * 6, 4).full == [PAD] * 4


@pytest.mark.parametrize("count, shares", [(9, [3, 3, 3]), (4, [1, 1, 2]), (3, [1, 1, 1])])
def test_runs_share_evenly(count, shares):
    def frames(lengths):
        return [t for n in lengths for t in (7, START, *[PAD] * n, END)]

    stock = PromptUpdateDetails.select_token_id(frames([3, 3, 3]), PAD)
    short = shortened(stock, count)
    assert short.full == frames(shares)
    assert short.is_embed(short.full).sum() == count
