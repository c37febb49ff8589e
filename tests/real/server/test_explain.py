"""/v1/script/explain says which text decided what is kept of which image; stats says the rest."""

import base64
import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig

from vllm_script.explain.drawing import CAPTION, MARGIN, PANEL_WIDTH
from vllm_script.families import family_of, pruned_name
from vllm_script.server.script_field import ATTACHED

N, KEPT = 192, 21
"""Visual tokens of a 168x168 picture, and what keep ratio 0.11 leaves of them."""


def post(server, path, body):
    return httpx.post(f"{server.url}{path}", json=body, timeout=300)


def said(text):
    return {"type": "text", "text": text}


def turn(*parts):
    return {"role": "user", "content": list(parts)}


@pytest.fixture
def explain(pruning_server):
    """explain(messages, script) -> the images of the answer."""

    def explain(messages, script=None, server=pruning_server):
        body = {"model": "tiny", "messages": messages}
        reply = post(
            server, "/script/explain", body | ({} if script is None else {"script": script})
        )
        assert reply.status_code == 200, reply.text
        return reply.json()["images"]

    return explain


def drawn(image):
    return Image.open(io.BytesIO(base64.b64decode(image["png"])))


def num_panels(image):
    return (drawn(image).width - MARGIN) // (PANEL_WIDTH + MARGIN)


def test_every_image_has_the_text_that_it_is_asked_about_with(explain, picture):
    messages = [
        {"role": "system", "content": "Be kind."},
        turn(said("What is"), picture(168, 168, 1), picture(84, 200, 2), said("shown?")),
        {"role": "assistant", "content": "A dog."},
        turn(picture(168, 168, 1)),
        {"role": "assistant", "content": "The same dog."},
        turn(said("And here?"), picture(168, 168, 1)),
    ]
    images = explain(messages, {"conversation": "turn"})
    assert [image["index"] for image in images] == [0, 1, 2, 3]
    assert [(image["width"], image["height"]) for image in images] == [
        *((168, 168), (84, 200)),
        *((168, 168), (168, 168)),
    ]
    queries = [(image["query"]["questions"], image["query"]["source"]) for image in images]
    first, second = (["What is\nshown?"], "conversation"), (["And here?"], "conversation")
    assert queries == [first, first, second, second]  # no words came with the third
    assert [image["relevance"] for image in images] == ["clip"] * 4
    one, _, other, again = [image["kept_patches"] for image in images]
    assert one != other and other == again
    for image in images:
        assert image["kept"] == len(image["kept_patches"]) == round(0.11 * image["visual_tokens"])
        assert (image["keep_ratio"], image["mode"], image["left_whole"]) == (0.11, "script", False)


def test_an_image_that_nobody_asked_about(explain, picture):
    (image,) = explain([turn(picture(168, 168, 1))])
    assert image["query"] == {"questions": [], "source": "none", "all_read": True}
    assert image["relevance"] == "none" and image["kept"] == KEPT


@pytest.mark.parametrize(
    ("script", "questions", "source"),
    [
        ({"query": "the dog"}, ["the dog"], "request"),
        ({"query": "the dog", "relevance": "embedding"}, ["the dog"], "request"),
        ({"relevance": "embedding"}, ["What is shown?"], "conversation"),
        ({"relevance": "none"}, [], "none"),
        ({"mode": "gsp"}, [], "none"),
        ({"mode": "uniform", "query": "the dog"}, [], "none"),
    ],
)
def test_text_is_given_exactly_where_it_is_read(explain, picture, script, questions, source):
    (image,) = explain([turn(picture(168, 168, 3), said("What is shown?"))], script)
    assert image["query"] == {"questions": questions, "source": source, "all_read": True}
    assert num_panels(image) == (4 if questions else 3)  # the heat map exactly where it has a say
    assert image["relevance"] == (script.get("relevance", "clip") if questions else "none")


def test_a_text_too_long_for_clip_is_said_to_be_read_in_part(explain, picture):
    long = "word " * 300  # more than 16 windows of the 16 tokens that this CLIP reads
    for text, script, all_read in (long, None, False), (long, {"relevance": "embedding"}, True):
        (image,) = explain([turn(picture(168, 168, 3), said(text))], script)
        found = {"questions": [text.strip()], "source": "conversation", "all_read": all_read}
        assert image["query"] == found


def test_patches_are_those_of_the_layout(explain, picture, checkpoint):
    config = AutoConfig.from_pretrained(checkpoint("llava-next"))
    family = family_of(pruned_name("LlavaNextForConditionalGeneration"))
    for width, height in (168, 168), (84, 230), (37, 41):
        fields = {"image_sizes": torch.tensor([height, width])}
        candidates = family.item_layout(config, "image", fields).candidates
        (image,) = explain(
            [turn(picture(width, height, 4))], {"mode": "uniform", "visual_token_budget": 9}
        )
        assert (image["keep_ratio"], image["visual_token_budget"]) == (None, 9)
        middles = [(2 * number + 1) * len(candidates) // 18 for number in range(9)]
        assert image["kept_patches"] == candidates[middles].tolist()


def test_kept_patches_are_bright(explain, picture):
    """In the panel of the whole picture in one tile, of 6 x 6 patches."""
    (image,) = explain([turn(picture(168, 168, 5), said("What is shown?"))])
    side = PANEL_WIDTH // 6

    def cells(panel):
        left = MARGIN + panel * (PANEL_WIDTH + MARGIN)
        pixels = np.asarray(drawn(image).convert("L"))[CAPTION:, left : left + PANEL_WIDTH]
        return pixels[side // 2 :: side, side // 2 :: side][:6, :6].astype(int).ravel()

    dimmed = cells(1) < 0.5 * cells(0)
    assert np.flatnonzero(~dimmed).tolist() == [p for p in image["kept_patches"] if p < 36]


def test_image_left_whole(explain, picture):
    parts = [picture(168, 168, 6), said("What is shown?")]
    for script in {"keep_ratio": 1.0}, {"visual_token_budget": N}:
        (image,) = explain([turn(*parts)], script)
        assert image["left_whole"] and image["kept"] == image["visual_tokens"] == N
        assert image["query"] == {"questions": [], "source": "none", "all_read": True}
        assert image["kept_patches"] is image["mode"] is image["keep_ratio"] is None
        assert num_panels(image) == 3


def test_nothing_is_shared_with_the_caches(explain, pruning_server, picture, ask):
    parts = [picture(168, 168, 7), said("What is shown?")]
    half = {"keep_ratio": 0.5}  # enough to fill blocks of the prefix cache
    (before,) = explain([turn(*parts)], half)
    first = ask(pruning_server, parts, half)
    assert first.cached_tokens == 0  # the explanation has left nothing
    (after,) = explain([turn(*parts)], half)  # and finds nothing: its image is selected again
    assert after == before
    again = ask(pruning_server, parts, half)
    assert again.cached_tokens > 0 and again.logprobs == pytest.approx(first.logprobs, abs=1e-3)


def test_a_client_cannot_attach_a_request_of_our_own(pruning_server, picture, ask):
    messages = [turn(picture(168, 168, 8), said("What is shown?"))]
    half = {"keep_ratio": 0.5}
    cached = [ask(pruning_server, messages, half).cached_tokens for _ in range(2)][-1]
    body = {"model": "tiny", "messages": messages, "max_tokens": 1, "script": half}
    forged = {"overrides": None, "explained": [], "explain_id": "00"}
    reply = post(pruning_server, "/chat/completions", body | {ATTACHED: forged})
    details = reply.json()["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] == cached > 0
    reply = post(pruning_server, "/chat/completions", body | {"script": {"explain_id": "00"}})
    assert reply.status_code == 400 and "unknown key 'explain_id'" in reply.text


def test_mistakes_are_those_of_chat_completions(pruning_server, picture):
    messages = [turn(picture(168, 168, 9), said("What is shown?"))]
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    for mistake in (
        {"script": {"mode": "best"}},
        {"script": 3},
        {"model": "gpt"},
        {"messages": [turn(broken)]},
        {"messages": "hello"},
        {"messages": [turn(*[picture(168, 168, 9)] * 5)]},
    ):
        body = {"model": "tiny", "messages": messages, "max_tokens": 1} | mistake
        expected = post(pruning_server, "/chat/completions", body)
        reply = post(pruning_server, "/script/explain", body)
        assert (reply.status_code, reply.text) == (expected.status_code, expected.text)
        assert reply.status_code in (400, 404)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (said("What?"), ["the messages have none", "image_url"]),
        ({"type": "image_url", "image_url": None, "uuid": "x"}, ["image", "data is not provided"]),
    ],
)
def test_what_cannot_be_shown(pruning_server, part, words):
    body = {"model": "tiny", "messages": [turn(part, said("Hm."))]}
    reply = post(pruning_server, "/script/explain", body)
    assert reply.status_code == 400
    for word in words:
        assert word in reply.json()["error"]["message"]


def test_one_at_a_time(pruning_server, picture):
    body = {"model": "tiny", "messages": [turn(picture(1000, 1000, 10), said("What?"))]}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: post(pruning_server, "/script/explain", body), range(8)))
    codes = {reply.status_code for reply in replies}
    assert codes == {200, 429}
    for reply in replies:
        if reply.status_code == 429:
            assert reply.headers["retry-after"] == "1"
            assert "one explanation at a time" in reply.json()["error"]["message"]
    assert post(pruning_server, "/script/explain", body).status_code == 200


def test_stats(pruning_server, picture, ask, metric):
    ask(pruning_server, [picture(168, 168, 12), said("What is shown?")])
    stats = httpx.get(f"{pruning_server.url}/script/stats").json()
    assert stats["settings"]["keep_ratio"] == 0.11 and stats["settings"]["explain"] is True
    for name, figure in stats["metrics"].items():
        rows = figure if isinstance(figure, list) else [{"value": figure}]
        for row in rows:
            labels = {key: value for key, value in row.items() if key != "value"}
            assert metric(pruning_server, name, **labels) == row["value"] >= 0
    assert stats["metrics"]["script_selection_seconds_count"] > 0
    assert stats["metrics"]["script_visual_tokens_kept_total"] > 0


def test_not_asked_for_there_are_no_routes(uncached_server):
    body = {"model": "tiny", "messages": [turn(said("What?"))]}
    assert post(uncached_server, "/script/explain", body).status_code == 404
    assert httpx.get(f"{uncached_server.url}/script/stats").status_code == 404
    for path in ("/script", "/script/page.js"):
        assert httpx.get(uncached_server.url.removesuffix("/v1") + path).status_code == 404


def test_routes(stock_server, uncached_server, pruning_server):
    """Those of stock vLLM, and where explain is asked for its own two beside the page's."""

    def paths(server):
        return httpx.get(server.url.removesuffix("/v1") + "/openapi.json").json()["paths"]

    stock = paths(stock_server)
    assert paths(uncached_server) == stock
    explaining = paths(pruning_server)
    assert explaining.keys() - stock.keys() == {"/v1/script/explain", "/v1/script/stats"}
    assert {path: explaining[path] for path in stock} == stock
    page = httpx.get(pruning_server.url.removesuffix("/v1") + "/script")
    assert page.status_code == 200 and "What is kept of your picture?" in page.text
