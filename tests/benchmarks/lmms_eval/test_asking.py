"""What the plugin asks a server, in which order, and what it takes as a failure."""

import json
from functools import partial
from pathlib import Path

import openai
import pytest
from PIL import Image
from vllm_script_lmms_eval.asking import Question, Server, ask_all, in_order, read_answers

from .conftest import WHOLE, parts_of, picture_in

GREEDY = {"max_new_tokens": 16, "temperature": 0.2, "top_p": 0, "do_sample": False, "until": ["."]}


def picture(color, size=(48, 32)):
    return Image.new("RGB", size, color)


def question(doc, color="red", text=None, size=(48, 32), generation=GREEDY):
    content = [
        {"type": "image", "url": picture(color, size)},
        {"type": "text", "text": text or f"question {doc}"},
    ]
    return Question("t", doc, partial(list, [{"role": "user", "content": content}]), generation)


def asked(fake_server, tmp_path, questions, concurrency=1, **server):
    """ask_all of the pretended server; its requests are in `fake_server.requests`."""
    server = Server(fake_server.url, "m", max_retries=1, **server)
    return ask_all(server, questions, tmp_path / "answers.jsonl", concurrency)


def test_stock_gets_what_lmms_eval_asks_and_no_script_field(fake_server, tmp_path):
    (answer,) = asked(fake_server, tmp_path, [question(0)])
    (body,) = fake_server.requests
    assert "script" not in body and body["model"] == "m"
    assert (body["max_tokens"], body["temperature"]) == (16, 0)
    assert not {"top_p", "stop"} & body.keys()
    (url,) = parts_of(body, "image_url")
    assert picture_in(url).size == (48, 32)
    assert picture_in(url).getpixel((0, 0)) == (255, 0, 0)
    assert (answer.text, answer.prompt_tokens, answer.visual_tokens) == ("yes", WHOLE + 4, WHOLE)


def test_sampling_only_where_the_task_says_so(fake_server, tmp_path):
    sampled = {"do_sample": True, "temperature": 0.5, "top_p": 0.9}
    asked(fake_server, tmp_path, [question(0, generation=sampled)])
    (body,) = fake_server.requests
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.5, 0.9, 1024)


@pytest.mark.parametrize(
    ("server", "script", "tokens"),
    [
        ({"script": {"keep_ratio": 0.1}}, {"keep_ratio": 0.1}, 10),
        ({"script": {"keep_ratio": 1.0}}, {"keep_ratio": 1.0}, WHOLE),
        ({"script": {"visual_token_budget": 64}}, {"visual_token_budget": 64}, 64),
        # 640x480 makes five crops of LLaVA-NeXT's.
        (
            {"script": {"mode": "gsp"}, "tokens_per_crop": 16},
            {"mode": "gsp", "visual_token_budget": 80},
            80,
        ),
    ],
)
def test_pruning_is_asked_for_in_every_request(fake_server, tmp_path, server, script, tokens):
    (answer,) = asked(fake_server, tmp_path, [question(0, size=(640, 480))], **server)
    assert fake_server.requests[0]["script"] == script
    assert answer.visual_tokens == tokens


def test_visual_tokens_are_not_known_of_a_server_that_does_not_tokenize(fake_server, tmp_path):
    fake_server.tokenizes = False
    (answer,) = asked(fake_server, tmp_path, [question(0)])
    assert answer.visual_tokens is None and answer.prompt_tokens == WHOLE + 4


def test_questions_of_one_picture_are_asked_together(fake_server, tmp_path):
    colors = ["red", "blue", "red", "green", "blue", "red"]
    questions = [question(doc, color) for doc, color in enumerate(colors)]
    assert [q.doc for q in in_order(questions)] == [0, 2, 5, 1, 4, 3]
    fake_server.answer = lambda text: text.upper()
    answers = asked(fake_server, tmp_path, questions)
    assert fake_server.questions == [f"question {doc}" for doc in (0, 2, 5, 1, 4, 3)]
    assert [answer.text for answer in answers] == [f"QUESTION {doc}" for doc in range(6)]


def test_pictures_of_other_sizes_are_others():
    narrow, wide = question(0, size=(32, 48)), question(1, size=(48, 32))
    assert [q.doc for q in in_order([narrow, wide, question(2, size=(32, 48))])] == [0, 2, 1]


def test_a_refused_question_has_failed_and_its_answer_is_empty(fake_server, tmp_path):
    fake_server.answer = lambda text: 400 if text == "question 1" else "yes"
    answers = asked(fake_server, tmp_path, [question(doc) for doc in range(3)])
    assert [answer.text for answer in answers] == ["yes", "", "yes"]
    assert "refused with 400" in answers[1].refused and answers[0].refused is None
    assert len(fake_server.requests) == 3  # a refusal is final: it was not asked again


def test_no_score_where_every_question_is_refused(fake_server, tmp_path):
    fake_server.answer = lambda text: 400
    with pytest.raises(ValueError, match="refused every question, the first with: .*400"):
        asked(fake_server, tmp_path, [question(doc) for doc in range(2)])


@pytest.mark.parametrize("status", [401, 404, 500])
def test_any_other_error_ends_the_run_and_answers_are_kept(fake_server, tmp_path, status):
    questions = [question(doc) for doc in range(3)]
    fake_server.answer = lambda text: status if text == "question 1" else text
    with pytest.raises(openai.APIStatusError):
        asked(fake_server, tmp_path, questions)
    kept = read_answers(tmp_path / "answers.jsonl")
    assert ("t", 0) in kept and ("t", 1) not in kept
    fake_server.requests.clear()
    fake_server.answer = lambda text: text
    answers = asked(fake_server, tmp_path, questions)
    assert [answer.text for answer in answers] == [f"question {doc}" for doc in range(3)]
    assert "question 0" not in fake_server.questions and "question 1" in fake_server.questions


def test_refused_questions_and_lines_cut_short_are_asked_again(fake_server, tmp_path):
    fake_server.answer = lambda text: 400 if text == "question 0" else "yes"
    asked(fake_server, tmp_path, [question(0), question(1)])
    path = tmp_path / "answers.jsonl"
    path.write_text(path.read_text() + '{"task": "t", "doc": 2, "te')
    assert read_answers(path).keys() == {("t", 1)}
    fake_server.answer = lambda text: "yes"
    asked(fake_server, tmp_path, [question(doc) for doc in range(3)])
    assert read_answers(path).keys() == {("t", 0), ("t", 1), ("t", 2)}


def test_the_order_of_answers_is_that_of_the_questions_under_load(fake_server, tmp_path):
    fake_server.answer = lambda text: text
    questions = [question(doc, ("red", "blue")[doc % 2]) for doc in range(24)]
    answers = asked(fake_server, tmp_path, questions, concurrency=8)
    assert [answer.text for answer in answers] == [f"question {doc}" for doc in range(24)]
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["doc"] for line in lines if line) == list(range(24))


def test_the_plugin_imports_nothing_of_this_package():
    import vllm_script_lmms_eval

    for path in Path(vllm_script_lmms_eval.__file__).parent.glob("*.py"):
        lines = path.read_text().splitlines()
        words = [line.split()[1] for line in lines if line.startswith(("import ", "from "))]
        roots = {word.partition(".")[0] for word in words}
        assert not roots & {"vllm_script", "vllm"}, path.name
