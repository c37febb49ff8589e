"""InternVL's examples of the start-up line, for the geometry of the published checkpoints."""

from types import SimpleNamespace

from transformers import InternVLConfig

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
