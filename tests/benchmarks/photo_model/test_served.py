"""What was trained is what a server answers with, and the commands of README.md fit together."""

import json
import sys
from collections import Counter

import pytest
import torch

from vllm_script.benchmarks import accuracy_bench
from vllm_script.benchmarks.accuracy.questions import folder_questions
from vllm_script.benchmarks.accuracy.scores import Scores
from vllm_script.benchmarks.accuracy.settings import WHOLE
from vllm_script.benchmarks.photo_model import exam, train
from vllm_script.benchmarks.photo_model.batches import samples_of
from vllm_script.benchmarks.photo_model.checkpoint import read
from vllm_script.benchmarks.photo_model.forward import answer_logits
from vllm_script.benchmarks.photo_model.photographs import Photograph
from vllm_script.benchmarks.photo_model.questions import Question

pytestmark = [pytest.mark.slow, pytest.mark.real]  # a server of their own

ASKED = 12
METHODS = ["script embedding", "script none", "uniform"]


def run(main, *command):
    """Run a command as from a shell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, command)))
        return main()


@pytest.fixture(scope="module")
def out(folder, start, tmp_path_factory):
    """All steps: a short training, the exam, and its answers through a server."""
    out = tmp_path_factory.mktemp("out")
    own = ["--device", "cpu", "--scale", 0.0004, "--dev-samples", 8]
    run(train.main, "train.py", "--data", folder / "data", "--start", start, "--out", out, *own)
    run(exam.main, "exam.py", "--data", folder / "data", "--out", out / "exam")
    own = ["--model", out / "model", "--questions", out / "exam", "--out", out / "accuracy"]
    own += ["--limit", ASKED, "--ratios", 0.25, "--modes", "script", "uniform", "--first-tokens"]
    own += ["--", "--block-size", 32, "--dtype", "float32", "--max-model-len", 512]
    run(accuracy_bench.main, "accuracy_bench.py", *own)
    return out


def test_report(out):
    scores = Scores.load(out / "accuracy/results.jsonl")
    assert scores.methods == METHODS
    assert scores.blind is not None and len(scores.blind) == ASKED
    assert len(scores.shadow) == len(METHODS) + 1
    assert all(0 < found.distance <= 1 for found in scores.shadow.values())
    for setting, tokens in scores.prompt_tokens.items():
        if setting.mode:
            assert scores.prompt_tokens[WHOLE] - tokens == 16 - 4
    text = (out / "accuracy/report.md").read_text()
    assert "Without the picture" in text and "First tokens" in text
    assert (out / "accuracy/accuracy.png").exists()


@torch.no_grad()
def test_server_gives_the_logits_of_training(out):
    """Probabilities of the likeliest first tokens, of every question with all tokens."""
    lines = map(json.loads, (out / "accuracy/answers.jsonl").read_text().splitlines())
    found = {line["item"]: line["first"] for line in lines if line["setting"] == str(WHOLE)}
    items = list(folder_questions(out / "exam"))[:ASKED]
    asked = [
        (Photograph(item.picture), Question(item.question, item.answers[0], "match"))
        for item in items
    ]
    model, processor = read(out / "model")
    logits, _, sample = answer_logits(model, (samples_of(asked, processor),))
    is_first = torch.diff(sample, prepend=torch.tensor([-1])) != 0
    texts = [processor.tokenizer.decode([token]) for token in range(logits.shape[-1])]
    often = Counter(texts)  # parts of a character look alike
    for item, row in zip(items, logits[is_first].softmax(-1), strict=True):
        expected = {t: float(p) for t, p in zip(texts, row, strict=True) if often[t] == 1}
        compared = {t: p for t, p in found[item.id].items() if t in expected}
        assert len(compared) >= 10
        assert compared == pytest.approx({t: expected[t] for t in compared}, abs=1e-4)
