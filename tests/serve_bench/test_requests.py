"""Requests: alike for all arms, new to every cache."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from serve.expected import Expected
from serve.requests import make_requests, random_text, size_of, write_dataset


@pytest.fixture(scope="module")
def expected(checkpoint):
    return Expected(str(checkpoint("llava-next")))


def pixels(request):
    data = base64.b64decode(request.url.split(",")[1])
    return np.array(Image.open(io.BytesIO(data))).astype(int)


def test_arms_have_the_same_texts_and_pictures_but_for_a_corner(expected):
    first, other = (list(make_requests("90x60", expected.tokenizer, 8, (0, 5), 2)) for _ in "AB")
    for a, b in zip(first, other, strict=True):
        assert a.text == b.text and (a.width, a.height) == (90, 60)
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
    assert [(r.width, r.height) for r in requests] == [(40, 30), (50, 30), (40, 30)]
    assert requests[0].url != requests[2].url


def test_texts_have_the_length_asked_for(expected):
    for length in (1, 7, 32):
        text = random_text(np.random.default_rng(0), expected.tokenizer, length)
        assert len(expected.tokenizer(text, add_special_tokens=False).input_ids) == length


def test_dataset_is_what_vllm_reads(tmp_path, expected):
    from vllm.benchmarks.datasets import CustomImageDataset

    requests = list(make_requests("40x30", expected.tokenizer, 8, (0,), 2))
    path = tmp_path / "requests.jsonl"
    write_dataset(requests, path)
    dataset = CustomImageDataset(dataset_path=str(path), disable_shuffle=True)
    samples = dataset.sample(expected.tokenizer, 2, output_len=3)
    assert [sample.prompt for sample in samples] == [request.text for request in requests]
    assert samples[0].multi_modal_data["image_url"]["url"] == requests[0].url
    assert len(json.loads(path.read_text().splitlines()[0])["image_files"]) == 1


def test_malformed_size():
    assert size_of("672x336") == (672, 336)
    for text in ("672", "672x", "0x3", "axb"):
        with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
            size_of(text)


def test_folder_without_pictures(tmp_path, expected):
    with pytest.raises(ValueError, match="no pictures"):
        list(make_requests(tmp_path, expected.tokenizer, 8, (0,), 1))


@pytest.mark.parametrize(
    ("size", "keep_ratio", "tokens"),
    [((168, 168), None, 192), ((168, 168), 1.0, 192), ((168, 168), 0.11, 21), ((84, 84), 0.5, 39)],
)
def test_expected_visual_tokens(expected, size, keep_ratio, tokens):
    """Tiles of 6 x 6 patches: 168x168 is the base tile and a grid of 12 rows with newlines."""
    assert expected.visual_tokens(*size, keep_ratio) == tokens


def test_expected_text_tokens_are_the_templates_and_the_texts(expected):
    text = "USER: <image>\nRead the sign. ASSISTANT:"
    whole = expected.tokenizer(text, add_special_tokens=False).input_ids
    assert expected.text_tokens("Read the sign.") == len(whole) - 1
