"""Requests: alike for all arms, new to every cache."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from vllm_script.benchmarks.serving.requests import Size, make_requests, random_text, size_of


def pixels(request):
    data = base64.b64decode(request.url.split(",")[1])
    return np.array(Image.open(io.BytesIO(data))).astype(int)


def test_arms_have_the_same_texts_and_pictures_but_for_a_corner(expected):
    first, other = (list(make_requests("90x60", expected.tokenizer, 8, (0, 5), 2)) for _ in "AB")
    for a, b in zip(first, other, strict=True):
        assert a.text == b.text and a.size == Size(90, 60)
        difference = np.abs(pixels(a) - pixels(b)).sum(-1)
        assert difference[:8, :8].any()
        assert not difference[18:].any() and not difference[:, 18:].any()  # JPEG smears a little
    assert first[0].text != first[1].text
    assert np.abs(pixels(first[0]) - pixels(first[1])).mean() > 10


def test_pictures_of_a_folder_take_turns(tmp_path, expected):
    for width in (40, 50):
        Image.new("RGB", (width, 30), "red").save(tmp_path / f"{width}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    requests = list(make_requests(tmp_path, expected.tokenizer, 8, (0,), 3))
    assert [r.size for r in requests] == [(40, 30, None), (50, 30, None), (40, 30, None)]
    assert requests[0].url != requests[2].url


def test_texts_have_the_length_asked_for(expected):
    for length in (1, 7, 32):
        text = random_text(np.random.default_rng(0), expected.tokenizer, length)
        assert len(expected.tokenizer(text, add_special_tokens=False).input_ids) == length


def test_video_is_read_by_vllm_as_it_was_drawn(expected):
    from vllm.multimodal.media import MediaConnector

    requests = list(make_requests("3x90x60", expected.tokenizer, 8, (0, 5), 2))
    assert [request.size for request in requests] == [Size(90, 60, 3)] * 2
    for request in requests:
        part = request.message["content"][1]
        assert part == {"type": "video_url", "video_url": {"url": request.url}}
        frames, about = MediaConnector().fetch_video(request.url).media
        assert frames.shape == (3, 60, 90, 3) and about["total_num_frames"] == 3
        assert np.abs(frames[0].astype(int) - frames[1]).mean() > 10
    first, other = (next(make_requests("3x90x60", expected.tokenizer, 8, (0, 5), 1)) for _ in "AB")
    assert first.url != other.url


def test_malformed_size():
    assert size_of("672x336") == Size(672, 336) and size_of("16x672x336") == Size(672, 336, 16)
    assert [str(size_of(text)) for text in ("672x336", "16x672x336")] == ["672x336", "16x672x336"]
    for text in ("672", "672x", "0x3", "axb", "0x672x672", "1x2x3x4"):
        with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
            size_of(text)


def test_folder_without_pictures(tmp_path, expected):
    with pytest.raises(ValueError, match="no pictures"):
        list(make_requests(tmp_path, expected.tokenizer, 8, (0,), 1))
