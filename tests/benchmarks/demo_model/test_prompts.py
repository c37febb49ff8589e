"""Prompts hold the rows they should, at the positions they should, and ask for the answers."""

import numpy as np
import pytest

from vllm_script.benchmarks.demo_model.batches import pictures_of
from vllm_script.benchmarks.demo_model.labels import NOTHING
from vllm_script.benchmarks.demo_model.prompts import EVERYTHING, NO_TARGET, Keep, prompts_of
from vllm_script.benchmarks.demo_model.stage import Tools, choose_questions
from vllm_script.benchmarks.demo_model.text import EOS, OPENING, train_tokenizer
from vllm_script.benchmarks.scenes.scene import scene_of
from vllm_script.benchmarks.scenes.tiling import NEWLINE, PATCHES, rows_of
from vllm_script.benchmarks.scenes.words import TYPES


@pytest.fixture(scope="module")
def tools():
    return Tools(train_tokenizer())


def lay_out(tools, seed, keep):
    scene, rng = scene_of(seed), np.random.default_rng(0)
    _, labels = pictures_of([scene], PATCHES, rng, blank=True)
    asked = choose_questions(scene, 5, set(TYPES))
    prompts = prompts_of([scene], labels, [asked], tools.tokenizer, keep, rng)
    return scene, labels[0], asked, prompts


def test_all_rows_are_there_in_order(tools):
    scene, labels, _, prompts = lay_out(tools, 5, EVERYTHING)
    rows = rows_of(scene.height, scene.width)
    expected = np.where(rows == NEWLINE, len(labels.thing), rows)
    assert prompts.row[prompts.row >= 0].tolist() == expected.tolist()


@pytest.mark.parametrize("spread", [False, True])
def test_only_things_are_kept(tools, spread):
    keep = Keep(background=0.0, newlines=False, spread=spread)
    scene, labels, _, prompts = lay_out(tools, 6, keep)
    rows = rows_of(scene.height, scene.width)
    places = np.flatnonzero((rows != NEWLINE) & (labels.thing[rows] != NOTHING))
    visual = prompts.row[0] >= 0
    assert prompts.row[0, visual].tolist() == rows[places].tolist()
    start = len(tools.tokenizer.encode(OPENING).ids)
    positions = prompts.position[0, visual] - start
    assert positions.tolist() == (places.tolist() if spread else list(range(len(places))))


def test_targets_are_the_answers(tools):
    _, _, asked, prompts = lay_out(tools, 7, EVERYTHING)
    targets = prompts.target.flatten()
    assert (targets != NO_TARGET).sum() == len(prompts.asked) == len(prompts.question)
    for index, question in enumerate(asked):
        ids = targets[prompts.asked[prompts.question == index]].tolist()
        text = tools.tokenizer.decode(ids, skip_special_tokens=False)
        assert text == f" {question.answer}{EOS}"
        assert TYPES[prompts.kind[0, index]] == question.kind
