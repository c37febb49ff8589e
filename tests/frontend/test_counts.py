"""Items of which two sides do not count the same tokens are refused with both numbers."""

import pytest
import torch
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.processing import PromptUpdateDetails

from vllm_script.frontend.counts import check_layout, check_pixels, check_room
from vllm_script.layout import Layout

MARK, PATCH = 1, 7
STOCK = PromptUpdateDetails.select_token_id([MARK, *[PATCH] * 6, MARK], PATCH)
SIX, FIVE = Layout(torch.arange(6)), Layout(torch.arange(5))


def test_what_agrees_passes():
    check_layout(STOCK, SIX)
    check_layout(STOCK, None)  # of a video
    check_pixels(SIX, Layout(torch.arange(6)))
    check_room(STOCK, 6, "video 0")


@pytest.mark.parametrize(
    "check, arguments, words",
    [
        (check_layout, (STOCK, FIVE), "6 placeholders, the script plugin 5"),
        (check_pixels, (SIX, FIVE), "has 6 visual tokens, and 5 with what mm_processor_kwargs"),
        (check_pixels, (SIX, Layout(torch.arange(6), minimum=3)), "has 6 visual tokens, and 6"),
        (check_room, (STOCK, 5, "video 0"), "video 0 has 5 visual tokens, .* room for 6"),
    ],
)
def test_what_does_not_is_refused(check, arguments, words):
    with pytest.raises(VLLMValidationError, match=words):
        check(*arguments)
