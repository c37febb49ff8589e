"""A task for lmms-eval that needs no network: script-demo's scenes, written on the spot."""

from __future__ import annotations

import json
from pathlib import Path

from ..accuracy.questions import demo_questions

NAME = "scenes"
QUESTIONS = 48
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {questions}
test_split: train
output_type: generate_until
doc_to_visual: !function utils.picture_of
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_new_tokens: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
"""
UTILS = '''\
"""What the task's file names."""

from PIL import Image


def picture_of(doc):
    return [Image.open(doc["image"]).convert("RGB")]
'''


def write_task(folder: Path) -> Path:
    """Write the task into a folder, and return it for `lmms-eval --include_path`.

    Its questions are the first of script-demo's test split, each about a picture of its own.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for item in demo_questions("test", QUESTIONS):
        assert isinstance(item.picture, bytes)
        path = folder / f"{item.id}.png"
        path.write_bytes(item.picture)
        (answer,) = item.answers
        lines.append({"image": str(path), "question": item.question, "answer": answer})
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    task = TASK.format(name=NAME, questions=json.dumps(str(questions)))
    (folder / f"{NAME}.yaml").write_text(task, encoding="utf-8")
    (folder / "utils.py").write_text(UTILS, encoding="utf-8")
    return folder
