"""script-demo as it ships: what vLLM answers, and which tokens two questions keep."""

import base64
import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from PIL import Image

from vllm_script.benchmarks.accuracy.in_process import DemoModel
from vllm_script.benchmarks.accuracy.scores import Scores
from vllm_script.benchmarks.accuracy.settings import BLIND
from vllm_script.benchmarks.accuracy.variants import DEFAULT, select
from vllm_script.benchmarks.demo_model.labels import labels_of
from vllm_script.benchmarks.scenes.answering import Answerer
from vllm_script.benchmarks.scenes.held_out import held_out
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.benchmarks.scenes.questions import questions_of
from vllm_script.benchmarks.scenes.scene import scene_of
from vllm_script.benchmarks.scenes.splits import seed_of
from vllm_script.budget import num_kept
from vllm_script.server.aliases import repository_of
from vllm_script.server.launch import VllmServer

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
pytestmark = pytest.mark.real

FOLDER = Path(repository_of("script-demo"))
KEEP_RATIO = 0.11


@pytest.fixture(scope="module")
def server():
    flags = ("--plugin", "script", "--enforce-eager", "--dtype", "float32")
    with VllmServer("script-demo", *flags) as server:
        yield server


@pytest.fixture(scope="module")
def ask(server):
    """ask(picture, question, keep_ratio) -> answer of a server."""
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=1)

    def ask(picture, question, keep_ratio):
        png = io.BytesIO()
        Image.fromarray(picture).save(png, "PNG")
        url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
        image = {"type": "image_url", "image_url": {"url": url}}
        reply = client.chat.completions.create(
            model="script-demo",
            messages=[{"role": "user", "content": [image, {"type": "text", "text": question}]}],
            max_tokens=6,
            temperature=0,
            extra_body={"script": {"keep_ratio": keep_ratio}},
        )
        return reply.choices[0].message.content.strip()

    return ask


@pytest.fixture(scope="module")
def demo():
    return DemoModel(FOLDER)


def kept_patches(demo, picture, question):
    encoded = demo.encode(picture, question)
    budget = num_kept(len(encoded.rows), len(encoded.places), keep_ratio=KEEP_RATIO)
    relevance = demo.relevance(encoded, question, DEFAULT.source)
    tokens = encoded.features[encoded.patches]
    kept = select(DEFAULT, tokens, budget, relevance, encoded.tiles)
    return set(encoded.patches[kept].tolist())


def jaccard(first, second):
    return len(first & second) / len(first | second)


def test_unpruned_answers_are_those_of_transformers(ask):
    answerer = Answerer(FOLDER)
    asked = [(draw(scene)[0], question) for scene, question in held_out("dev", 100)]
    with ThreadPoolExecutor(8) as pool:
        served = list(pool.map(lambda pair: ask(pair[0], pair[1].text, 1.0), asked))
    expected = [answerer.answer(picture, question.text) for picture, question in asked]
    assert served == expected
    right = [answer == question.answer for answer, (_, question) in zip(served, asked, strict=True)]
    assert np.mean(right) > 0.85


def test_two_questions_keep_what_they_are_about_and_are_answered(ask, demo):
    picture = np.asarray(Image.open(BENCHMARKS / "scene.png").convert("RGB"))
    questions = {"What color is the cross?": "blue", "Which digit is yellow?": "4"}
    first, second = (kept_patches(demo, picture, question) for question in questions)
    assert len(first) == len(second) == 111
    assert jaccard(first, second) < 0.7
    for question, answer in questions.items():
        assert ask(picture, question, KEEP_RATIO) == answer


def test_kept_sets_differ_where_the_objects_are(demo):
    """Over twenty scenes: a question keeps its own object whole, the other one only in part."""
    overlaps, own, others = [], [], []
    for index in range(20):
        scene = scene_of(seed_of("dev", index))
        picture, mask = draw(scene)
        thing = labels_of(scene, mask).thing
        about = {
            question.relevant: question.text
            for question in questions_of(scene)
            if question.kind in ("color", "shape", "digit") and len(question.relevant) == 1
        }
        if len(about) < 2:
            continue
        pair = list(about.items())[:2]
        kept = [kept_patches(demo, picture, text) for _, text in pair]
        overlaps.append(jaccard(*kept))
        for (relevant, _), mine, yours in zip(pair, kept, kept[::-1], strict=True):
            shown = np.flatnonzero(thing == relevant[0]).tolist()
            own.append(np.mean([patch in mine for patch in shown]))
            others.append(np.mean([patch in yours for patch in shown]))
    assert len(overlaps) >= 10
    assert np.mean(overlaps) < 0.7
    assert np.mean(own) > 0.95 and np.mean(others) < 0.9


def bench(server, out, *flags):
    script = BENCHMARKS / "accuracy_bench.py"
    where = ("--url", server.url, "--out", out)
    command = [sys.executable, script, *where, *flags]
    return subprocess.run(command, check=True, capture_output=True, text=True)


def test_accuracy_bench(server, tmp_path):
    flags = ["--limit", "12", "--modes", "script", "random", "--sources", "clip"]
    flags += ["--ratios", "1", "0.11", "0.056"]
    shown = bench(server, tmp_path, *flags).stdout
    assert "| script clip |" in shown and "| random |" in shown
    scores = Scores.load(tmp_path / "results.jsonl")
    assert [len(right) for right in scores.right.values()] == [12] * 6
    assert scores.whole.mean() > 0.7 > scores.right[BLIND].mean()
    whole, blind, *pruned = [round(tokens) for tokens in scores.prompt_tokens.values()]
    assert whole > 5 * pruned[0] > 5 * pruned[1] > 5 * blind and pruned[:2] == pruned[2:]
    assert (tmp_path / "accuracy.png").exists() and (tmp_path / "report.md").exists()

    asked = (tmp_path / "answers.jsonl").read_text()
    bench(server, tmp_path, *flags)
    assert (tmp_path / "answers.jsonl").read_text() == asked, "asked again"


def test_accuracy_bench_on_a_folder(server, tmp_path):
    Image.open(BENCHMARKS / "scene.png").save(tmp_path / "scene.webp", lossless=True)
    lines = [
        {"image": "scene.webp", "question": "What color is the cross?", "answer": "blue"},
        {"image": "scene.webp", "question": "Which digit is yellow?", "answer": ["four", "4"]},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "questions.jsonl").write_text(text)
    flags = ("--model", "script-demo", "--questions", tmp_path, "--stock")
    assert "of 2 questions" in bench(server, tmp_path / "out", *flags).stdout
    assert Scores.load(tmp_path / "out" / "results.jsonl").whole.all()
