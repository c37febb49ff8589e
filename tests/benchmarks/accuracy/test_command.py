"""The command itself, on a family without CLIP, with a picture and a video."""

import json

import numpy as np
import pytest
from PIL import Image

from vllm_script.benchmarks import accuracy_bench
from vllm_script.benchmarks.accuracy.scores import Scores
from vllm_script.benchmarks.accuracy.settings import BLIND, WHOLE

pytestmark = pytest.mark.slow  # starts a server of its own


def draw(path, seed, width=168, height=112):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_small_run(family_checkpoint, tmp_path, monkeypatch, capsys):
    draw(tmp_path / "a.png", 0)
    (tmp_path / "film").mkdir()
    for frame in range(4):
        draw(tmp_path / "film" / f"{frame}.jpg", frame)
    asked = {"question": "What is shown?", "answer": "trees"}
    lines = ({"image": "a.png", "then": [asked]}, {"video": "film"})
    text = "".join(json.dumps(line | asked) + "\n" for line in lines)
    (tmp_path / "questions.jsonl").write_text(text)
    out, model = tmp_path / "out", str(family_checkpoint("qwen2.5-vl"))
    own = ("--model", model, "--questions", str(tmp_path), "--out", str(out), "--ratios", "0.25")
    own += ("--modes", "script", "uniform", "--", "--block-size", "32")
    monkeypatch.setattr("sys.argv", ["accuracy_bench.py", *own])
    accuracy_bench.main()
    scores = Scores.load(out / "results.jsonl")
    assert scores.methods == ["script embedding", "script none", "uniform"]
    lengths = dict(scores.prompt_tokens)
    whole, blind, pruned = lengths.pop(WHOLE), lengths.pop(BLIND), list(lengths.values())
    # 24 visual tokens of the picture, which is asked about twice, and 48 of the video.
    saved = (2 * 24 + 48) / 3 - (2 * 6 + 12) / 3
    assert [whole - tokens for tokens in pruned] == pytest.approx([saved] * 3, abs=0.11)
    assert blind < min(pruned)
    assert "script embedding" in capsys.readouterr().out
