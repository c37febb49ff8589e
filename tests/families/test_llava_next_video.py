"""LLaVA-NeXT-Video's example of the start-up line, for the geometry of the published checkpoint."""

from transformers import LlavaNextVideoConfig

from vllm_script.families.llava_next_video import LlavaNextVideoFamily


def test_example():
    """Frames of 12 by 12 tokens."""
    name, layout = LlavaNextVideoFamily().example(LlavaNextVideoConfig())
    assert (name, layout.num_placeholders, layout.num_frames) == ("8 frames", 8 * 144, 8)
