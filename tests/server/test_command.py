"""`vllm-script explain`: with a model of its own, of a running server, and its mistakes."""

import base64
import pathlib
import sys

import pytest
from PIL import Image

from vllm_script.server import command as shell
from vllm_script.server import explain_command
from vllm_script.server.explain_client import ExplainClient

SCENE = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "scene.png"


@pytest.fixture
def explain(monkeypatch, capsys):
    """explain(*arguments) -> the status that the command ends with, and what it prints."""

    def explain(*arguments):
        monkeypatch.setattr(sys, "argv", ["vllm-script", "explain", *map(str, arguments)])
        try:
            shell.main()
        except SystemExit as exit_:
            assert isinstance(exit_.code, str)
            return exit_.code
        return capsys.readouterr().out

    return explain


@pytest.mark.real
def test_with_a_model_of_its_own(explain, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # as users have it
    out = tmp_path / "kept.png"
    lines = explain("--image", SCENE, "--question", "Which digit is yellow?", "--out", out)
    assert lines.splitlines() == [
        f"{SCENE}: 224x224, 1008 visual tokens -> 111 (keep ratio 0.11), mode script, "
        "relevance clip",
        "  chosen for 'Which digit is yellow?'",
        f"  drawn in {out}",
    ]
    assert Image.open(out).width > 4 * 420


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        ((), []),
        (("--script-relevance", "lm-attention"), ["--script-relevance", "lm-attention"]),
    ],
)
def test_a_server_of_its_own_has_the_relevance_that_is_asked_for(
    explain, tmp_path, monkeypatch, asked, flags
):
    started = []

    def no_server(model, *flags, **options):
        started.extend(flags)
        raise ValueError("that is all")

    monkeypatch.setattr(explain_command, "VllmServer", no_server)
    question = ("--image", SCENE, "--question", "What?", "--out", tmp_path / "o.png")
    assert "that is all" in explain(*question, *asked)
    assert started == ["--script-explain", "--enforce-eager", *flags]


def test_of_a_running_server(explain, pruning_server, tmp_path):
    tall = tmp_path / "tall.jpg"
    Image.open(SCENE).resize((84, 230)).save(tall)
    pictures = [
        "--image",
        SCENE,
        "--image",
        tall,
        "--question",
        "What?",
        "--out",
        tmp_path / "o.png",
    ]
    of_server = [*pictures, "--url", pruning_server.url]
    lines = explain(*of_server, "--visual-token-budget", 30, "--script-mode", "gsp").splitlines()
    assert lines[0].endswith("-> 30 (budget 30), mode gsp")
    assert lines[1] == "  chosen without a text"
    assert [line.split()[-1] for line in lines[2::3]] == [
        str(tmp_path / f"o-{n}.png") for n in (0, 1)
    ]
    assert all(Image.open(tmp_path / f"o-{number}.png") for number in (0, 1))
    assert "left whole" in explain(*of_server, "--keep-ratio", 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--image": "none.png"}, ["no file none.png", "give --image the path"]),
        ({"--image": __file__}, ["test_command.py is not a picture", "PNG or JPEG"]),
        ({"--out": "/no/such/folder/o.png"}, ["no folder /no/such/folder"]),
        ({"--model": "llama"}, ["model llama is not known", "script-demo", "llava-next"]),
        ({"--video": "none.mp4"}, ["no file none.mp4", "give --video the path"]),
        ({"--url": "localhost:8000"}, ["localhost:8000 is no address", "http://host:8000"]),
        ({"--url": "http://127.0.0.1:9"}, ["127.0.0.1:9 does not answer", "refused", "is up"]),
    ],
)
def test_mistakes(explain, tmp_path, change, words):
    arguments = {"--image": SCENE, "--question": "What?", "--out": tmp_path / "o.png"} | change
    message = explain(*[word for pair in arguments.items() for word in pair])
    for word in words:
        assert word in message
    assert message.startswith("vllm-script: error: ") and "\n" not in message


def test_nothing_to_explain(explain, tmp_path):
    message = explain("--question", "What?", "--out", tmp_path / "o.png")
    assert message.endswith("there is nothing to explain; give --image or --video")


def test_a_video(explain, tmp_path, monkeypatch):
    """Its strip goes where a picture's drawing does, and the film beside it."""
    asked = []

    def answer(self, path, body):
        asked.append(body["messages"][0]["content"])
        files = {
            "png": base64.b64encode(b"strip").decode(),
            "webp": base64.b64encode(b"film").decode(),
        }
        item = {"width": 8, "height": 4, "visual_tokens": 99, "kept": 9, "left_whole": False}
        item |= {"keep_ratio": 0.1, "mode": "gsp", "query": {"source": "none"}, "tower_left": 50}
        return {"images": [], "videos": [item | files | {"num_frames": 3}]}

    monkeypatch.setattr(ExplainClient, "_call", answer)
    clip, out = tmp_path / "clip.webm", tmp_path / "kept.png"
    clip.write_bytes(b"clip")
    server = ("--url", "http://host", "--model", "m")
    lines = explain("--video", clip, "--question", "Who?", "--out", out, *server).splitlines()
    assert lines == [
        f"{clip}: 3 frames of 8x4, 99 visual tokens, 50 left by the vision tower -> 9 "
        "(keep ratio 0.1), mode gsp",
        "  chosen without a text",
        f"  drawn in {out}",
        f"  played in {tmp_path / 'kept.webp'}",
    ]
    assert (out.read_bytes(), out.with_suffix(".webp").read_bytes()) == (b"strip", b"film")
    url = "data:video/webm;base64," + base64.b64encode(b"clip").decode()
    text = {"type": "text", "text": "Who?"}
    assert asked == [[{"type": "video_url", "video_url": {"url": url}}, text]]


def test_refusals_of_a_server(explain, pruning_server, uncached_server, tmp_path):
    question = ("--image", SCENE, "--question", "What?", "--out", tmp_path / "o.png", "--url")
    message = explain(*question, uncached_server.url)
    assert "does not explain" in message and "--script-explain" in message
    message = explain(*question, pruning_server.url, "--model", "gpt")
    assert "The model `gpt` does not exist" in message
    message = explain(*question, pruning_server.url, "--keep-ratio", 7)
    assert "keep_ratio must be a number in [0.01, 1], got 7" in message
