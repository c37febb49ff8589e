"""LLaVA's towers: which feature selection leaves the patches alone, and what CLIP could score."""

from types import SimpleNamespace

import pytest

from vllm_script.families.llava import LlavaFamily

CLIP, SIGLIP, PIXTRAL = "clip_vision_model", "siglip_vision_model", "pixtral"


def config(tower, strategy="default", layers=-2):
    return SimpleNamespace(
        vision_config=SimpleNamespace(model_type=tower, hidden_size=64),
        vision_feature_select_strategy=strategy,
        vision_feature_layer=layers,
    )


@pytest.mark.parametrize(
    ("tower", "strategy"),
    [(CLIP, "full"), (SIGLIP, "default"), (PIXTRAL, "full"), (CLIP, "class"), (SIGLIP, "class")],
)
def test_what_returns_other_tokens_than_patches_is_refused(tower, strategy):
    """CLIP's class token would come along, or SigLIP's first patch would be dropped for one."""
    with pytest.raises(ValueError, match=f"{tower} tower .*'{strategy}'.* the patches alone"):
        LlavaFamily().check(None, config(tower, strategy))


def test_what_returns_the_patches_is_not():
    LlavaFamily().check(None, config(CLIP, "default"))
    LlavaFamily().check(None, config(SIGLIP, "full"))


def test_states_are_kept_for_a_clip_that_is_read_at_one_layer():
    widths = [
        LlavaFamily().state_width(config(tower, layers=layers))
        for tower, layers in [(CLIP, -2), (CLIP, [-3, -2]), (SIGLIP, -1), (SIGLIP, [-2, -1])]
    ]
    assert widths == [64, 0, 0, 0]
