"""Figures by hand, from two photographs."""

import math

import pytest

from vllm_script.benchmarks.photos.measures import WAYS
from vllm_script.benchmarks.photos.report import Table, main_source, tables
from vllm_script.benchmarks.photos.results import (
    DISTANCE,
    OBJECT_SHARE,
    OBJECTS_HIT,
    SEGMENTS_HIT,
    Method,
    Results,
)

DOG, CAT, SKY = (
    {"category": "dog", "thing": True, "size": "medium", "tokens": 10, "in_pool": 4},
    {"category": "cat", "thing": True, "size": "small", "tokens": 2, "in_pool": 0},
    {"category": "sky", "thing": False, "size": "large", "tokens": 60, "in_pool": 20},
)
AUROC = {"auroc": {"mask": 1.0, "mask + noise 1": 0.75}}


def line(things, kept, panoptic=True):
    """A photograph; kept: what uniform, and script with the mask, keep for each thing."""
    uniform, script = kept
    own = {"uniform": {"": {"0.11": uniform}}, "script": {"mask": {"0.11": script}}}
    return {
        "panoptic": panoptic,
        "cosine": 0.25,
        "neighbours": 0.5,
        "objects": [each | AUROC for each in (*things, SKY)],
        "segments": [*things, SKY],
        "kept": own if things else {},
    }


RESULTS = Results(
    [
        line([DOG, CAT], ([[1, 0.4, 0, 1, 1]] * 2, [[5, 0.6, 0, 1, 0], [2, 0.8, 1, 0, 0]])),
        line([DOG], ([[0, 0.1, 0, 0, 1]], [[10, 0.3, 0, 1, 0]]), panoptic=False),
        line([], ([], [])),
    ]
)
UNIFORM, SCRIPT = Method("uniform", ""), Method("script", "mask")


@pytest.mark.parametrize(
    "measure, method, size, expected",
    [
        (OBJECT_SHARE, UNIFORM, None, (0.1 + 0.5 + 0) / 3),
        (OBJECT_SHARE, SCRIPT, None, (0.5 + 1 + 1) / 3),
        (OBJECT_SHARE, SCRIPT, "medium", 0.75),
        (OBJECTS_HIT, UNIFORM, None, 2 / 3),
        (OBJECTS_HIT, UNIFORM, "small", 1),
        (SEGMENTS_HIT, UNIFORM, None, 4 / 6),
        (SEGMENTS_HIT, SCRIPT, None, 2 / 6),
        (SEGMENTS_HIT, SCRIPT, "small", 1 / 2),
        (DISTANCE, SCRIPT, None, (0.6 + 0.8 + 0.3) / 3),
    ],
)
def test_measures(measure, method, size, expected):
    assert RESULTS.value(measure, method, "0.11", size).value == pytest.approx(expected)


def test_differences_are_between_the_same_objects():
    found = RESULTS.difference(OBJECT_SHARE, SCRIPT, UNIFORM, "0.11")
    assert found.value == pytest.approx((0.4 + 0.5 + 1) / 3)
    assert math.isnan(found.low)  # of three photographs nobody knows


def test_methods_and_ratios():
    assert RESULTS.methods == [UNIFORM, SCRIPT]
    assert [str(method) for method in RESULTS.methods] == ["uniform", "script, mask"]
    assert RESULTS.ratios == ["0.11"]
    assert main_source(RESULTS) == "mask"


def test_pool():
    small = RESULTS.pool(things=True, size="small")
    assert small["tokens removed"].value == small["segments without a token"].value == 1
    sky = RESULTS.pool(things=False, size="large")
    assert sky["tokens removed"].value == pytest.approx(2 / 3)
    assert sky["segments without a token"].value == 0
    assert RESULTS.num_segments(things=False, size="large") == 2
    assert RESULTS.objects_gone().value == pytest.approx(1 / 3)
    assert RESULTS.objects_gone("medium").value == 0
    assert {n: round(own.value, 3) for n, own in RESULTS.categories(2)} == {
        "sky": 0.667,
        "dog": 0.6,
    }


def test_auroc():
    assert RESULTS.auroc("mask + noise 1", things=False).value == 0.75


def test_tables_say_the_same_as_lines():
    table = Table("T", "row", {"uniform": {"a": RESULTS.value(OBJECTS_HIT, UNIFORM, "0.11")}})
    assert table.text() == "## T\n\n| row | a |\n| --- | --- |\n| uniform | 0.667 |"
    assert table.lines() == [{"table": "T", "row": "uniform", "column": "a", "value": 0.66667}]
    assert len({each.title for each in tables_of_a_run()}) == len(tables_of_a_run())


def tables_of_a_run():
    """All tables, of lines in which every mode is what uniform is."""
    kept = RESULTS.lines[0]["kept"]["uniform"][""]
    modes = {name: {"": kept, "mask": kept} for name in map(str, WAYS)}
    modes |= {"uniform": {"": kept}, "relevance alone": {"mask": kept}}
    return tables(Results([RESULTS.lines[0] | {"kept": modes}]))
