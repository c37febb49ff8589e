"""What was trained is what vLLM serves, and the commands of README.md fit together."""

import json
import sys

import pytest
import torch
from PIL import Image

from vllm_script.benchmarks import accuracy_bench
from vllm_script.benchmarks.accuracy.scores import Scores
from vllm_script.benchmarks.photo_model import exam, train
from vllm_script.benchmarks.photo_model.batches import prompt_of, samples_of
from vllm_script.benchmarks.photo_model.checkpoint import read
from vllm_script.benchmarks.photo_model.forward import answer_logits
from vllm_script.benchmarks.photo_model.photographs import read as read_photographs
from vllm_script.benchmarks.photo_model.questions import countings, sides

pytestmark = [pytest.mark.slow, pytest.mark.real]  # an engine and a server of their own

TOP = 20
UNPRUNED = {"script": {"keep_ratio": 1.0}}


@pytest.fixture(scope="module")
def trained(folder, start, tmp_path_factory):
    """The model after a short training by the command itself."""
    out = tmp_path_factory.mktemp("trained")
    command = ["train.py", "--data", folder / "data", "--start", start, "--out", out]
    command += ["--device", "cpu", "--scale", "0.0004", "--dev-samples", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(map(str, command)))
        assert train.main() == 0
    return out / "model"


@pytest.fixture(scope="module")
def asked(folder):
    """Photographs with a question each."""
    photographs = read_photographs(folder / "data")["test"].masked[:4]
    ask = [countings, sides, countings, sides]
    return [(p, each(p)[0]) for p, each in zip(photographs, ask, strict=True)]


def test_vllm_gives_the_logits_of_training(trained, asked, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    model, processor = read(trained)
    with torch.no_grad():
        logits, _, sample = answer_logits(model, (samples_of(asked, processor),))
    first = torch.diff(sample, prepend=torch.tensor([-1])) != 0
    expected = logits[first].log_softmax(-1)
    llm = LLM(
        str(trained),
        additional_config={"script": {"keep_ratio": 0.25}},
        enforce_eager=True,
        dtype="float32",
        block_size=32,
        max_model_len=512,
        num_gpu_blocks_override=64,
    )
    prompts = [
        {
            "prompt": prompt_of(question.text, processor.tokenizer),
            "multi_modal_data": {"image": [Image.open(photograph.path).convert("RGB")]},
        }
        for photograph, question in asked
    ]
    sampling = SamplingParams(temperature=0, max_tokens=1, logprobs=TOP)
    whole = llm.generate([p | {"mm_processor_kwargs": UNPRUNED} for p in prompts], sampling)
    for output, row in zip(whole, expected, strict=True):
        found = {token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()}
        assert len(found) >= TOP
        assert found == pytest.approx({token: float(row[token]) for token in found}, abs=1e-3)
    for output, pruned in zip(whole, llm.generate(prompts, sampling), strict=True):
        assert len(output.prompt_token_ids) - len(pruned.prompt_token_ids) == 16 - 4


def test_measured(folder, trained, tmp_path, monkeypatch):
    questions, out = tmp_path / "exam", tmp_path / "out"
    exam.write(folder / "data", questions)
    own = ["--model", trained, "--questions", questions, "--out", out, "--limit", 12]
    own += ["--ratios", 0.25, "--modes", "script", "uniform", "--first-tokens"]
    own += ["--", "--block-size", 32, "--dtype", "float32", "--max-model-len", 512]
    monkeypatch.setattr(sys, "argv", ["accuracy_bench.py", *map(str, own)])
    accuracy_bench.main()
    scores = Scores.load(out / "results.jsonl")
    assert scores.methods == ["script embedding", "script none", "uniform"]
    assert scores.blind is not None and len(scores.blind) == 12
    assert len(scores.shadow) == 4 and all(0 <= s.distance <= 1 for s in scores.shadow.values())
    text = (out / "report.md").read_text()
    assert "Without the picture" in text and "First tokens" in text
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert {len(a["first"]) > 0 for a in answers} == {True}
