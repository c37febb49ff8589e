"""What explain notes of a request's images while it is processed."""

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


def test_images_in_prompt_order():
    explanation = Explanation()
    for side in (1, 2):
        explanation.see(Image.new("RGB", (side, side)), LAYOUT, PLAN, ["What?"], "conversation")
    assert [image.picture.width for image in explanation.images] == [1, 2]
    assert explanation.images[0].all_read(None)


def test_an_image_that_was_not_sent():
    explanation = Explanation()
    explanation.see(Image.new("RGB", (1, 1)), LAYOUT, None, (), "none")
    with pytest.raises(VLLMValidationError, match="image 1 cannot be shown: send the picture"):
        explanation.see(None, None, PLAN, (), "none")
