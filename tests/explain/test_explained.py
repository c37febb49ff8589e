"""What explain notes of a request's items while it is processed."""

import pytest
import torch
from PIL import Image
from vllm.exceptions import VLLMValidationError

from vllm_script.config import ScriptConfig
from vllm_script.explain.explained import Explanation
from vllm_script.layout import Layout
from vllm_script.plan import make_plan

PLAN = make_plan(ScriptConfig(relevance="embedding"), (((1, 2),),))
LAYOUT = Layout(torch.arange(4))


def test_every_plan_gets_a_name_of_its_own():
    explanation = Explanation()
    one, other = explanation.mark(PLAN), explanation.mark(PLAN)
    assert len({PLAN.explain_id, one.explain_id, other.explain_id}) == 3
    assert explanation.mark(None) is None


def test_items_in_prompt_order():
    explanation = Explanation()
    for side in (1, 2):
        picture = Image.new("RGB", (side, side))
        explanation.see("image", picture, LAYOUT, PLAN, ["What?"], "conversation", 2)
    explanation.see("video", [picture], None, None, (), "none", 9)
    assert [image.content.width for image in explanation.of("image")] == [1, 2]
    assert [item.num_visual_tokens for item in explanation.items] == [4, 4, 9]
    assert explanation.items[0].all_read(None)


@pytest.mark.parametrize("modality", ["image", "video"])
def test_an_item_that_was_not_sent(modality):
    explanation = Explanation()
    explanation.see(modality, Image.new("RGB", (1, 1)), LAYOUT, None, (), "none", 4)
    explanation.see("other", Image.new("RGB", (1, 1)), LAYOUT, None, (), "none", 4)
    with pytest.raises(VLLMValidationError, match=f"{modality} 1 cannot be shown"):
        explanation.see(modality, None, None, PLAN, (), "none", 4)
