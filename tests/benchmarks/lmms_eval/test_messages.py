"""What pictures and videos of a benchmark become in a chat request."""

import base64

import pytest
from PIL import Image
from vllm_script_lmms_eval.crops import num_crops
from vllm_script_lmms_eval.messages import chat_messages, picture_key

from .conftest import picture_in


def conversation(*parts):
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}]


def sent(*parts, root=None):
    """What is sent of a conversation's pictures and videos."""
    (message,) = chat_messages(conversation(*parts), root)
    assert message["role"] == "user" and message["content"][-1] == {"type": "text", "text": "?"}
    return message["content"][:-1]


def test_a_picture_is_sent_in_its_own_size_and_pixels(tmp_path):
    picture = Image.effect_noise((123, 77), 64)
    picture.save(tmp_path / "a.png")
    for media in (picture, str(tmp_path / "a.png")):
        (part,) = sent({"type": "image", "url": media})
        received = picture_in(part["image_url"]["url"])
        assert received.mode == "RGB" and received.size == (123, 77)
        assert received.convert("L").tobytes() == picture.tobytes()


def test_a_video_is_sent_as_a_video(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"film")
    (part,) = sent({"type": "video", "url": str(tmp_path / "a.mp4")})
    data = base64.b64encode(b"film").decode()
    assert part == {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{data}"}}


def test_a_video_that_the_server_may_read_is_named(tmp_path):
    inside, outside = tmp_path / "hub" / "a.mp4", tmp_path / "b.mp4"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(b"film")
    parts = [{"type": "video", "url": str(path)} for path in (inside, outside)]
    first, second = sent(*parts, root=inside.parent)
    assert first["video_url"]["url"] == f"file://{inside}"
    assert second["video_url"]["url"].startswith("data:video/mp4;base64,")


@pytest.mark.parametrize(
    "part", [{"type": "audio", "url": "a.wav"}, {"type": "video", "url": {"video_start": 1}}]
)
def test_what_cannot_be_sent_is_an_error(part):
    with pytest.raises(ValueError, match="only pictures and whole video files"):
        sent(part)


def test_questions_about_one_picture_share_its_key():
    red, blue = (Image.new("RGB", (8, 8), color) for color in ("red", "blue"))
    first, second = conversation({"type": "image", "url": red}), conversation()
    second = [{"role": "user", "content": [{"type": "image", "url": red.copy()}]}]
    assert picture_key(first) == picture_key(second)
    assert picture_key(first) != picture_key(conversation({"type": "image", "url": blue}))


@pytest.mark.parametrize(
    ("size", "crops"),
    [((640, 480), 5), ((480, 640), 5), ((672, 672), 5), ((336, 672), 3), ((2000, 400), 4)],
)
def test_crops_are_those_that_llava_next_makes(size, crops):
    """Against the processor of transformers itself."""
    from transformers import LlavaNextImageProcessor

    assert num_crops(*size) == crops
    processor = LlavaNextImageProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )
    processed = processor(Image.new("RGB", size), return_tensors="pt")
    assert processed["pixel_values"].shape[1] == crops
