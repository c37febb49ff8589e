"""Rules by which answers are scored, on cases that are worked out by hand."""

import pytest

from vllm_script.benchmarks.accuracy.questions import Item
from vllm_script.benchmarks.accuracy.scoring import IN_PARTS, RULES, check, points

TEN = ["blue"] * 2 + ["light blue"] * 3 + ["navy"] * 5


@pytest.mark.parametrize(
    ("rule", "answer", "accepted", "wanted"),
    [
        ("exact", "The red.", ["red"], 1),
        ("exact", "reddish", ["red"], 0),
        ("anls", "Hello World", ["hello world"], 1),
        ("anls", "hallo", ["hello"], 1 - 1 / 5),
        ("anls", "hallo", ["planet", "hello"], 1 - 1 / 5),
        ("anls", "2009", ["2019"], 1 - 1 / 4),
        ("anls", "ab", ["abcd"], 0.5),
        ("anls", "a", ["abcd"], 0),
        ("anls", "", ["hello"], 0),
        ("anls", "kitten", ["sitting"], 1 - 3 / 7),
        # Five humans of ten: whomever one leaves out, three others are left.
        ("vqa", "Navy.", TEN, 1),
        # Three humans: without one of them 2/3, in three of ten cases.
        ("vqa", "light blue", TEN, (3 * 2 / 3 + 7 * 1) / 10),
        # Two humans: without one of them 1/3, in two of ten cases.
        ("vqa", "blue", TEN, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("vqa", "green", TEN, 0),
        ("vqa", "two", ["2"] * 10, 1),
        ("vqa", "The dont", ["don't"] * 10, 1),
        ("choice", "B", ["B"], 1),
        ("choice", "b.", ["B"], 1),
        ("choice", "(B) red", ["B"], 1),
        ("choice", "B: a red bus", ["B"], 1),
        ("choice", "The answer is (B).", ["B"], 1),
        ("choice", "Answer: C", ["B"], 0),
        ("choice", "A bus", ["A"], 0),
        ("choice", "A bus", ["B", "bus"], 1),
        ("choice", "", ["B"], 0),
        ("yes-no", "Yes, there is a dog.", ["yes"], 1),
        ("yes-no", "no", ["No"], 1),
        ("yes-no", "There is not a dog, yes?", ["no"], 1),
        ("yes-no", "nothing", ["no"], 0),
        ("yes-no", "", ["no"], 0),
    ],
)
def test_points(rule, answer, accepted, wanted):
    assert points(rule, answer, accepted) == pytest.approx(wanted)


def test_every_rule_is_tested_and_says_whether_it_gives_parts():
    assert RULES.keys() == {"exact", "anls", "vqa", "choice", "yes-no"}
    assert set(IN_PARTS) < RULES.keys()


def item(rule, *answers):
    return Item("7", "?", answers, "all", b"", rule=rule)


@pytest.mark.parametrize(
    ("rule", "answer", "words"),
    [("bleu", "red", "7 has rule 'bleu'; a rule is one of exact"), ("yes-no", "red", "'red'")],
)
def test_a_rule_that_cannot_score_is_an_error(rule, answer, words):
    check(item("yes-no", "Yes"))
    with pytest.raises(ValueError, match=words):
        check(item(rule, answer))
