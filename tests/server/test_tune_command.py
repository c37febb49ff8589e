"""`vllm-script tune` against a pretended server: what is found, its mistakes, and being stopped."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from .pretended_server import PretendedServer

RATIOS = (0.5, 0.22, 0.11)
FEW = ("--modes", "script", "uniform", "--sources", "clip", "none", "--ratios", *RATIOS)


def loses(script, number):
    """script with clip loses nothing from 0.22 up, and all others much."""
    if script["mode"] == "script" and script["relevance"] == "clip":
        return script["keep_ratio"] < 0.2 and number % 3 == 1
    return number % 2 == 1


@pytest.fixture
def folder(tmp_path):
    """folder(n, key=value, ...) -> a folder of n questions, whose lines have these keys too."""

    def folder(number, **more):
        path = tmp_path / f"questions-{number}"
        path.mkdir()
        Image.new("RGB", (8, 8)).save(path / "a.png")
        lines = [
            {"image": "a.png", "question": f"question {index}", "answer": "Right."} | more
            for index in range(number)
        ]
        (path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return folder


def logged(path, number, **more):
    """Write a log of requests."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    with path.open("w") as out:
        for index in range(number):
            content = [part, {"type": "text", "text": f"question {index}"}]
            body = {"model": "another", "messages": [{"role": "user", "content": content}]}
            print(json.dumps({"custom_id": "1", "body": body | more}), file=out)
    return path


@pytest.fixture
def tune(vllm_script, tmp_path):
    """tune(*arguments) -> status, what it prints, what it says on stderr."""

    def tune(*arguments):
        out = () if "--out" in arguments else ("--out", tmp_path / "out")
        return vllm_script("tune", *out, *arguments)

    return tune


def test_questions(tune, folder, tmp_path):
    with PretendedServer(loses) as server:
        source = ("--url", server.url, "--questions", folder(200), "--loss", 5)
        status, shown, _ = tune(*source, *FEW)
        assert status == 0
        assert shown.strip().startswith(
            "vllm serve tiny --plugin script --keep-ratio 0.22 --script-mode script "
            "--script-relevance clip\n"
        )
        assert "- tokens: 1020 -> 240 of a prompt, 780 fewer a picture\n" in shown
        assert " sooner (medians of 12 requests" in shown
        assert "script clip @ 0.11 is not shown: " in shown and "more than 5" in shown
        assert "| script clip @ 0.5 | 96 | 0.0 (" in shown
        assert "questions, of which 9" in shown and "% are answered right unpruned" in shown
        most = 200 * (1 + 3 * len(RATIOS))
        assert f"where every setting on every question takes {most}" in shown
        assert 160 < sum(server.answered.values()) < most / 4
        tried = 1 + 2 + 1  # unpruned, every source, the smallest keep ratio: by the first question
        assert sum(server.answered.values()) <= len(server.answered) + tried
        uuids = [part["uuid"] for body in server.bodies if body.get("stream")
                 for part in body["messages"][0]["content"][:1]]  # fmt: skip
        assert len(uuids) == len(set(uuids)) == 2 + 2 * 12
        assert (tmp_path / "out" / "tune.png").read_bytes().startswith(b"\x89PNG")
        report = (tmp_path / "out" / "report.md").read_text()
        assert report in shown

        sent = len(server.bodies)
        assert tune(*source, *FEW)[:2] == (status, shown)
        assert len(server.bodies) == sent + tried, "asked again"
        status, _, error = tune("--url", server.url, "--questions", folder(199), "--loss", 5)
        assert status == 2 and "has results with questions 200 of questions.jsonl" in error
        assert "choose another --out" in error and error.count("\n") == 1


def test_a_log(tune, tmp_path):
    """The unpruned answers are the truth, the wrong ones too."""
    with PretendedServer(loses) as server:
        more = {"tools": [{"x": 1}], "temperature": 0.7, "max_tokens": 900, "stream": True}
        source = (
            "--log",
            logged(tmp_path / "log.jsonl", 150, **more),
            "--url",
            server.url + "/v1/",
        )
        status, shown, _ = tune(*source, "--loss", 25, "--max-tokens", 5, *FEW)
        assert status == 0 and "--keep-ratio 0.22 --script-mode script" in shown
        sent = next(body for body in server.bodies if not body.get("stream"))
        assert sent["tools"] == [{"x": 1}] and sent["temperature"] == 0
        assert sent["model"] == "tiny" and sent["max_tokens"] == 5
        lines = (tmp_path / "out" / "settings.jsonl").read_text().splitlines()
        # Every tenth answer is another one pruned, and wrong or not, that is a loss here.
        losses = json.loads(lines[1])["losses"]
        assert 0 < sum(losses) == sum(loss == 1 for loss in losses) < 0.2 * len(losses)


def test_nothing_shown(tune, folder):
    with PretendedServer(lambda script, number: number % 5 == 1) as server:
        source = ("--url", server.url, "--questions", folder(200), "--loss", 5)
        status, shown, _ = tune(*source, *FEW)
        assert status == 1
        assert shown.strip().startswith("Nothing is shown to lose at most 5 points.\n")
    with PretendedServer(lambda script, number: number % 28 == 1) as server:
        source = ("--url", server.url, "--questions", folder(201), "--loss", 5)
        status, shown, _ = tune(*source, *FEW, "--out", source[3] / "out")
        assert status == 1, shown
        needed = re.search(r"which are too few; at this loss it takes about (\d+) ", shown)
        assert int(needed.group(1)) > 201


def test_what_the_server_does_not_have_is_left_out(tune, folder):
    def refuses(script):
        if script.get("relevance") == "clip":
            return "relevance clip is not available on this server, embedding and none are"
        if script["keep_ratio"] < 0.3:
            return "keep_ratio must be a number in [0.3, 1], got 0.22"
        return None

    with PretendedServer(refuses=refuses) as server:
        status, shown, error = tune(
            "--url", server.url, "--questions", folder(100), "--loss", 5, *FEW
        )
    assert status == 0
    assert "--keep-ratio 0.5 --script-mode script --script-relevance none\n" in shown
    assert "left out: relevance clip is not available" in error
    assert "left out: keep_ratio must be a number in [0.3, 1]" in error


@pytest.mark.parametrize(
    ("server", "change", "words"),
    [
        ({"prunes": False}, {}, ["does not prune", "1020 tokens", "--plugin script"]),
        (
            {"refuses": lambda script: "keep_ratio must be a number in [0.01, 0.5], got 1.0"},
            {},
            ["unpruned answers are what is compared with", "[0.01, 0.5]"],
        ),
        (
            {"refuses": lambda s: s["keep_ratio"] < 1 and "keep_ratio must be 1"},
            {},
            ["takes none of these settings: keep_ratio must be 1"],
        ),
        ({"key": "secret"}, {}, ["wants a key", "--api-key"]),
        ({}, {"--url": "localhost:8000"}, ["localhost:8000 is no address", "http://host:8000"]),
        ({}, {"--url": "http://127.0.0.1:9"}, ["127.0.0.1:9 does not answer", "is up"]),
        ({}, {"--questions": None}, ["no truth", "--questions FOLDER", "--log FILE"]),
        ({}, {"--questions": "none"}, ["none/questions.jsonl does not exist"]),
        ({}, {"--limit": 1}, ["1 question cannot show", "takes 59", "--loss 95"]),
        ({}, {"--loss": 0}, ["--loss must be above 0"]),
        ({}, {"--sure": 100}, ["--sure must be at least 50 and below 100"]),
        ({}, {"--ratios": 1}, ["--ratios", "below 1"]),
        ({}, {"--ratios": 7}, ["--ratios", "got 7"]),
        ({}, {"--concurrency": 0}, ["--concurrency must be at least 1"]),
        ({}, {"--url": None, "--model": "llama"}, ["model llama is not known"]),
    ],
)
def test_mistakes(tune, folder, server, change, words):
    with PretendedServer(**server) as running:
        given = {"--url": running.url, "--questions": folder(100), "--loss": 5, "--ratios": 0.5}
        pairs = [(flag, value) for flag, value in (given | change).items() if value is not None]
        status, shown, error = tune(*[word for pair in pairs for word in pair])
    assert status == 2 and not shown
    assert error.startswith("vllm-script: error: ") and error.count("\n") == 1
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello\n", ["log.jsonl:1: is no chat completions request", '{"messages": [...]}']),
        ('{"prompt": "hello"}\n', ["log.jsonl:1: is no chat"]),
        ('\n{"messages": ["hello"]}\n', ["log.jsonl:2: is no chat"]),
        ('{"messages": [{"content": "hello"}]}\n', ["no request with a picture or video"]),
        (None, ["there is no file", "log.jsonl"]),
    ],
)
def test_wrong_logs(tune, tmp_path, text, words):
    path = tmp_path / "log.jsonl"
    if text is not None:
        path.write_text(text)
    status, _, error = tune("--log", path, "--url", "http://127.0.0.1:9", "--loss", 5)
    assert status == 2 and error.count("\n") == 1
    for word in words:
        assert word in error


def test_a_refused_question_is_named(tune, tmp_path):
    with PretendedServer() as server:
        log = logged(tmp_path / "log.jsonl", 100)
        server.reply, reply = lambda body: reply(body), server.reply
        server.refuses = lambda script: (
            "cannot fetch the picture" if len(server.bodies) > 20 else None
        )
        status, _, error = tune("--log", log, "--url", server.url, "--loss", 5, *FEW)
    assert status == 2 and error.splitlines()[-1].endswith("cannot fetch the picture")
    assert "error: question " in error.splitlines()[-1]


def test_a_server_that_was_started_wrongly_can_be_started_again(tune, folder):
    source = ("--questions", folder(100), "--loss", 5, *FEW)
    with PretendedServer(prunes=False) as server:
        status, _, error = tune("--url", server.url, *source)
        assert status == 2 and "does not prune" in error
    with PretendedServer() as server:
        status, shown, _ = tune("--url", server.url, *source)
        assert status == 0 and "--keep-ratio 0.11" in shown
    with PretendedServer(prunes=False) as server:
        status, _, error = tune("--url", server.url, *source)
        assert status == 2 and "does not prune" in error


def test_answers_of_another_form(tune, folder):
    questions = folder(100)
    path = questions / "questions.jsonl"
    path.write_text(path.read_text().replace("Right.", "rightly"))
    with PretendedServer() as server:
        status, _, error = tune("--url", server.url, "--questions", questions, "--loss", 5, *FEW)
    assert status == 2 and "not one of 16 unpruned answers is right" in error
    assert "is answered 'right', where 'rightly' is right" in error


def test_an_answer_is_scored_by_its_questions_rule(tune, folder):
    """What the server says where it is right, "right", is five sevenths of what is accepted."""
    close = folder(100, answer="Rights.", rule="anls")
    with PretendedServer(loses) as server:
        source = ("--url", server.url, "--loss", 20, *FEW)
        status, shown, _ = tune(*source, "--questions", close)
        assert status == 0 and "60 % are answered right unpruned" in shown  # 5 / 7 of 84 %
        status, _, error = tune(*source, "--questions", folder(99, rule="best"))
    assert status == 2 and "question 1 has rule 'best'; a rule is one of exact, anls" in error


def test_the_picture_needs_matplotlib(tune, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    status, _, error = tune("--loss", 5)
    assert status == 2 and "pip install 'vllm-script[bench]'" in error


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=lambda how: how.name,
)
def test_a_run_that_is_stopped_goes_on(folder, tmp_path, how):
    out = tmp_path / "out"
    with PretendedServer(loses, seconds=0.005) as server:
        command = [Path(sys.executable).with_name("vllm-script"), "tune", "--url", server.url]
        command += ["--questions", folder(200), "--loss", "5", "--out", out, *map(str, FEW)]
        first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        answers = out / "answers.jsonl"
        deadline = time.monotonic() + 60
        while not answers.exists() or answers.read_text().count("\n") < 100:
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.01)
        first.send_signal(how)
        _, error = first.communicate()
        assert first.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(how, -how)
        assert "Traceback" not in error
        kept = [line for line in answers.read_text().splitlines() if line.endswith("}")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--keep-ratio 0.22 --script-mode script --script-relevance clip" in done.stdout
    assert answers.read_text().splitlines()[: len(kept)] == kept
    twice = sum(times - 1 for times in server.answered.values())
    assert twice <= 8 + 2 * 4, "more than what was on the way, and what tries the server"
    assert os.path.exists(out / "tune.png")
