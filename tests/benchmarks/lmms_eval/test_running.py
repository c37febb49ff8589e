"""From what lmms-eval writes to the tables."""

import json
import sys

import pytest

from vllm_script.benchmarks.lmms_eval.running import Cell, Lmms, Server, load, save
from vllm_script.benchmarks.lmms_eval.settings import UNPRUNED, Setting, settings_of
from vllm_script.benchmarks.lmms_eval.tables import report
from vllm_script.benchmarks.lmms_eval.tasks import TASKS, metrics_of, score_of

POPE = {
    "pope": {
        "alias": "pope",
        "pope_accuracy,none": 0.87,
        "pope_accuracy_stderr,none": 0.01,
        "pope_f1_score,none": 0.859,
        "pope_yes_ratio,none": "N/A",
    }
}


def test_metrics_are_numbers_without_their_errors():
    assert metrics_of(POPE) == {"pope_accuracy": 0.87, "pope_f1_score": 0.859}
    group = {"mvbench": {"alias": "mvbench"}}
    group |= {f"mvbench_{i}": {"mvbench_accuracy,none": 50.0 + i} for i in range(3)}
    assert metrics_of(group) == {"mvbench_accuracy": 51.0}


def test_scores_are_those_of_papers():
    assert score_of("pope", metrics_of(POPE)) == pytest.approx(85.9)
    assert score_of("mme", {"mme_perception_score": 1359.0}) == 1359
    assert score_of("mine", {"exact_match": 0.5, "other": 0.1}) == 50
    with pytest.raises(ValueError, match="no exact_match of gqa"):
        score_of("gqa", {})


def answers(folder, *lines):
    folder.mkdir(parents=True)
    fields = {"task": "pope", "text": "yes", "refused": None, "visual_tokens": 64}
    text = "".join(json.dumps(fields | line) + "\n" for line in lines)
    (folder / "answers.jsonl").write_text(text)


def test_a_cell_is_read_from_lmms_evals_files(tmp_path):
    lmms, setting = Lmms(sys.executable, tmp_path, 1), Setting("64")
    folder = lmms.folder(setting, "pope")
    answers(
        folder,
        {"doc": 0, "prompt_tokens": 0, "visual_tokens": None, "refused": "too long"},
        {"doc": 1, "prompt_tokens": 90},
        {"doc": 2, "prompt_tokens": 0, "visual_tokens": None, "refused": "too long"},
        {"doc": 0, "prompt_tokens": 100},  # asked again, and answered
    )
    assert not lmms.is_done(setting, "pope")
    (folder / "vllm_script").mkdir()
    (folder / "vllm_script" / "1_results.json").write_text(json.dumps({"results": POPE}))
    assert lmms.is_done(setting, "pope")
    cell = lmms.cell(setting, "pope")
    assert (cell.questions, cell.refused) == (3, 1)
    assert (cell.prompt_tokens, cell.visual_tokens) == (95, 64)
    assert cell.score == pytest.approx(85.9) and cell.metrics["pope_accuracy"] == 0.87


PRETENDED = """#!{python}
import pathlib, sys
argument = dict(zip(sys.argv[3::2], sys.argv[4::2]))
pathlib.Path({seen!r}).write_text(repr(argument))
print("2026 | \\x1b[31mERROR\\x1b[0m - Error during evaluation: no such data set")
"""


def test_a_run_without_a_result_is_an_error_that_says_why(tmp_path):
    """lmms-eval ends with status 0 whatever happens."""
    python, seen = tmp_path / "python", tmp_path / "seen"
    python.write_text(PRETENDED.format(python=sys.executable, seen=str(seen)))
    python.chmod(0o755)
    lmms, setting = Lmms(python, tmp_path / "out", 4, limit=7), Setting("16/crop", "gsp")
    with pytest.raises(RuntimeError, match="pope, gsp, 16 tokens a crop .*no such data set.*goes"):
        lmms.run(setting, "pope", Server("http://host/v1", "m", False, tmp_path))
    asked = eval(seen.read_text())
    folder = tmp_path / "out" / "gsp-16-tokens-a-crop" / "pope"
    assert asked["--tasks"] == "pope" and asked["--limit"] == "7"
    assert asked["--model_args"] == (
        f"url=http://host/v1,model=m,answers={folder / 'answers.jsonl'},concurrency=4,"
        f'script={{"mode": "gsp"}},tokens_per_crop=16,media_root={tmp_path}'
    )
    with pytest.raises(RuntimeError):
        lmms.run(UNPRUNED, "pope", Server("http://host/v1", "m", True))
    assert "script" not in eval(seen.read_text())["--model_args"].replace("vllm_script", "")


def cell(setting, task, score, visual_tokens, prompt_tokens, refused=0):
    return Cell(str(setting), task, score, {}, 10, refused, prompt_tokens, visual_tokens)


def test_the_table(tmp_path):
    settings = settings_of("llava-1.5", ["64", "32"], None)
    whole, some, few = settings
    cells = [
        cell(whole, "gqa", 62.0, 576, 600),
        cell(whole, "pope", 86.0, 576, 600),
        cell(some, "gqa", 58.9, 64, 88),
        cell(some, "pope", 86.0, 64, 88),
        cell(few, "gqa", 55.8, 32, 56, refused=2),
        cell(few, "pope", 77.4, None, 56),
    ]
    about = {"model": "llava-1.5", "unpruned": "stock vLLM"}
    save(tmp_path / "results.jsonl", about, cells)
    again, found = load(tmp_path / "results.jsonl")
    assert (again, found) == (about, cells)
    text = report(again, settings, found)
    for row in (
        "| unpruned | 62.0 | 86.0 | 100.0 % |",
        "| 64 tokens | 58.9 (95.0 %) | 86.0 (100.0 %) | 97.5 % |",
        "| 32 tokens | 55.8 (90.0 %) | 77.4 (90.0 %) | 90.0 % |",
        "| unpruned | 576 (1.000) | 576 (1.000) |",
        "| 64 tokens | 64 (0.111) | 64 (0.111) |",
        "| 32 tokens | 32 (0.056) | -544 of 600 in all |",
        "| 32 tokens | gqa | 2 of 10 |",
        "| server's mode | **97.5** | **90.0** | this run, 2 tasks |",
        "| CDPruner | 96.3 |  | Cen-Prune paper, arXiv 2608.30263 |",
        "| Script | 96.9 |  | Script paper, arXiv 2512.01949 |",
        "| **32 tokens** | 55.8 | 77.4 |",
        "| CDPruner | 57.2 | 87.2 |",
    ):
        assert row in text, row


def test_no_published_figures_beside_a_model_that_papers_do_not_have():
    settings = settings_of("script-demo", ["0.1"], None)
    cells = [cell(setting, "scenes", 50.0, 100, 120) for setting in settings]
    text = report({"model": "script-demo"}, settings, cells)
    assert "published" not in text and "Refused" not in text
    assert "| keep ratio 0.1 | 50.0 (100.0 %) | 100.0 % |" in text


def test_committed_report_follows_from_its_lines(committed):
    path = committed("lmms-scenes")
    about, cells = load(path.with_suffix(".jsonl"))
    assert report(about, settings_of("script-demo", None, None), cells) == path.read_text()


def test_tasks_by_name():
    names = "gqa vqav2_val textvqa_val pope mme mmbench_en_dev mmbench_cn_dev scienceqa_img"
    names += " vizwiz_vqa_val mmvet seedbench mvbench videomme egoschema_subset nextqa_mc_test"
    assert TASKS.keys() >= set(names.split())
