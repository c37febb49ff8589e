"""From answers to tables, and back from the file."""

import numpy as np
import pytest

from vllm_script.benchmarks.accuracy.questions import Item
from vllm_script.benchmarks.accuracy.scores import Scores, score
from vllm_script.benchmarks.accuracy.settings import BLIND, WHOLE, WHOLE_ALONE, Setting, grid
from vllm_script.benchmarks.accuracy.tables import ablation, plot, report

ITEMS = [Item(str(i), "?", ("red",), "color" if i % 2 else "count", b"") for i in range(20)]


def scores(first_tokens=False):
    """Everything right unpruned; script loses one question at 0.11, uniform half, no picture all.

    A wrong answer begins with "blue", of which the model is sure to 0.7, a right one with "red".
    """
    settings = [BLIND, *grid((1.0, 0.11), ("script", "uniform"), ("clip",))]
    answers = {}
    for item in ITEMS:
        for setting in settings:
            wrong = {
                "uniform": int(item.id) < 10,
                "script": item.id == "3",
                None: setting == BLIND,
            }[setting.mode]
            tokens = 900 if setting == WHOLE else 100
            answers[item.id, str(setting)] = {
                "answer": "blue" if wrong else "Red.",
                "prompt_tokens": tokens,
            }
            if first_tokens:
                first = {"blue": 0.7, "red": 0.2} if wrong else {"red": 0.9}
                answers[item.id, str(setting)]["first"] = first
    return score({"model": "tiny"}, ITEMS, settings, answers)


def test_grid_asks_sources_only_of_modes_that_read_them():
    settings = grid((1.0, 0.5, 0.11), ("cdpruner", "gsp"), ("clip", "none"))
    assert settings[0] == WHOLE
    assert WHOLE.request == {"keep_ratio": 1.0} and BLIND.request == {}
    assert [str(s) for s in settings[1:]] == [
        "cdpruner clip @ 0.5", "cdpruner none @ 0.5", "cdpruner clip @ 0.11",
        "cdpruner none @ 0.11", "gsp @ 0.5", "gsp @ 0.11",
    ]  # fmt: skip
    assert settings[1].request == {"keep_ratio": 0.5, "mode": "cdpruner", "relevance": "clip"}


def test_grid_asks_policies_only_of_modes_that_read_a_query():
    settings = grid((0.11,), ("script", "gsp"), ("clip",), ("turn", "all"))
    assert [str(s) for s in settings[1:]] == [
        *("script clip turn @ 0.11", "script clip all @ 0.11", "gsp @ 0.11"),
    ]
    assert settings[2].request["conversation"] == "all"


def test_alone_is_no_policy_of_a_request():
    _, alone = grid((0.11,), ("script",), ("clip",), ("alone",))
    assert alone.method == "script clip alone" and "conversation" not in alone.request
    assert WHOLE_ALONE.method == "all tokens alone" and WHOLE_ALONE.request == WHOLE.request


def test_follow_ups_are_compared_with_the_same_questions_asked_alone():
    """Policy `turn` loses two of ten counts, and the chat itself one question of all tokens."""
    settings = [WHOLE_ALONE, *grid((0.11,), ("script",), ("clip",), ("alone", "turn"))]
    wrong = {"script clip turn": {"0", "2"}, "all tokens": {"3"}}
    answers = {
        (item.id, str(setting)): {
            "answer": "blue" if item.id in wrong.get(setting.method, ()) else "red",
            "prompt_tokens": 9,
        }
        for item in ITEMS
        for setting in settings
    }
    text = report(score({"model": "tiny"}, ITEMS, settings, answers))
    rows = text.partition("## Follow-ups")[2].splitlines()
    assert [row.split(" | ")[0] for row in rows[4:]] == [
        "| script clip alone", "| script clip turn", "| all tokens, to all alone", "| (questions)",
    ]  # fmt: skip
    assert rows[5].split(" | ")[1].startswith("-0.200 (") and "| +0.000 (" in rows[5]
    assert "| -0.100 (" in rows[6] and rows[7] == "| (questions) | 10 | 10 | 20 |"
    assert "Follow-ups" not in report(scores())


def test_scores():
    found = scores()
    assert found.whole.all()
    assert found.right[Setting(0.11, "script", "clip")].sum() == 19
    assert found.of_method("uniform")[0.11].sum() == 10


def test_blind():
    found = scores()
    assert not found.blind.any()
    assert found.methods == ["script clip", "uniform"] and found.ratios == [0.11]
    text = report(found)
    assert "Without the picture: 0.000" in text
    assert "| no picture | 0.000 | 0.000 |" in text


def test_first_tokens():
    found = scores(first_tokens=True)
    # 0.7 lies on another token where the answer is wrong.
    assert found.shadow[Setting(0.11, "uniform")] == (0.35, 0.5)
    assert found.shadow[BLIND] == (0.7, 0.0)
    assert "| script clip | 0.035 (0.950) |" in report(found)


def test_file_keeps_everything(tmp_path):
    found = scores(first_tokens=True)
    found.save(tmp_path / "results.jsonl")
    again = Scores.load(tmp_path / "results.jsonl")
    assert again.about == found.about and again.kinds == found.kinds
    assert again.prompt_tokens == found.prompt_tokens
    assert again.shadow == found.shadow
    for setting, right in found.right.items():
        assert np.array_equal(again.right[setting], right)


def test_ablation():
    text = ablation(scores(), "script clip")
    assert "| script clip | 0.950" in text and "| uniform | -0.450" in text


RULED = [
    *(
        Item(str(i), "?", ("yes" if i < 5 else "no",), "pope", b"", rule="yes-no")
        for i in range(10)
    ),
    *(Item(str(i), "?", ("hello",), "words", b"", rule="anls") for i in range(10, 15)),
]


def ruled(items):
    """Unpruned all is right; pruned, three of five are said to be there that are not."""
    settings = grid((1.0, 0.11), ("uniform",))
    answers = {}
    for item in items:
        for setting in settings:
            wrong = setting != WHOLE and item.id in ("6", "7", "8", "11")
            given = {
                "pope": "Yes." if wrong else item.answers[0],
                "words": "hell" if wrong else "hello",
            }
            answers[item.id, str(setting)] = {"answer": given[item.kind], "prompt_tokens": 9}
    return score({"model": "tiny"}, items, settings, answers)


def test_yes_no_questions_are_reported_as_pope_does():
    text = report(ruled(RULED[:10]))
    assert "| all tokens | 1.000 | 1.000 | 1.000 | 1.000 | 0.500 |" in text
    # 8 said to be there, 5 are, all of them found: hallucination is a low precision.
    assert "| uniform | 0.700 | 0.625 | 1.000 | 0.769 | 0.800 |" in text
    assert "McNemar" in text
    assert "Yes or no" not in report(scores())


def test_points_are_kept_and_reported_with_an_interval(tmp_path):
    found = ruled(RULED)
    pruned = found.right[Setting(0.11, "uniform")]
    assert pruned[10:].tolist() == [1, 0.8, 1, 1, 1] and pruned[:10].sum() == 7
    found.save(tmp_path / "results.jsonl")
    again = Scores.load(tmp_path / "results.jsonl")
    assert np.array_equal(again.right[Setting(0.11, "uniform")], pruned)
    assert again.yes == [True] * 5 + [False] * 5 + [None] * 5
    text = report(again)
    assert text == report(found)
    mean, reach = pruned.mean(), 2.1448 * pruned.std(ddof=1) / 15**0.5
    assert f"| uniform | {mean:.3f} ({mean - reach:.3f}-{mean + reach:.3f}) |" in text
    assert "McNemar" not in text  # it counts right and wrong alone
    plot(again, tmp_path / "accuracy.png")


def test_plot(tmp_path):
    plot(scores(), tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["accuracy", "second-questions", "third-questions"])
def test_committed_report_follows_from_its_lines(committed, name):
    path = committed(name)
    assert report(Scores.load(path.with_suffix(".jsonl"))) == path.read_text()
