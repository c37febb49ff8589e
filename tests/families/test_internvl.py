"""InternVL's examples of the start-up line, for the geometry of the published checkpoints."""

from types import SimpleNamespace

import pytest
from transformers import InternVLConfig

from vllm_script.families import FAMILIES, model_class, pruned_name
from vllm_script.families.internvl import InternVLChatFamily, InternVLFamily


def counted(example):
    name, layout = example
    return name, layout.num_placeholders, layout.num_frames


def test_example():
    """Four by two tiles and a thumbnail, of 256 tokens each."""
    assert counted(InternVLFamily().example(InternVLConfig())) == ("1280x720", 9 * 256, 1)


def test_example_of_their_own_format():
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=448, patch_size=14),
        downsample_ratio=0.5,
        min_dynamic_patch=1,
        max_dynamic_patch=12,
        dynamic_image_size=True,
        use_thumbnail=True,
    )
    assert counted(InternVLChatFamily().example(config)) == ("1280x720", 9 * 256, 1)
    config.dynamic_image_size = False
    assert counted(InternVLChatFamily().example(config)) == ("1280x720", 256, 1)


@pytest.mark.parametrize("architecture", [name for name in FAMILIES if "Intern" in name])
def test_a_model_names_what_is_thinned(architecture):
    model = model_class(pruned_name(architecture))
    assert all(isinstance(getattr(model, name), str) for name in ("tower_name", "blocks"))
    assert isinstance(model.projector_name, str)


@pytest.mark.parametrize(("read", "depth"), [(-1, 24), (-4, 21), (11, 12)])
def test_blocks_behind_the_layer_that_is_read_do_not_count(read, depth):
    config = SimpleNamespace(vision_config=SimpleNamespace(num_hidden_layers=24), select_layer=read)
    assert InternVLChatFamily().tower_depth(config) == depth
