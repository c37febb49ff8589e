"""Values that a setting may have, and the messages about those that it may not."""

import math

import pytest

from vllm_script.setting import Choice, Name, Number, Prose, Setting, SettingError, Switch

INSIDE = [
    (Number(0, 1), (0, 0.0, 0.5, 1)),
    (Number(0, 1, above_low=True), (1e-9, 1, 1.0)),
    (Number(-2, 3, integer=True), (-2, 0, 3)),
    (Choice(("a", "b")), ("a", "b")),
    (Choice({"a": 1}), ("a",)),
    (Switch(), (True, False)),
    (Name(), ("", "x", "\udc80")),
    (Prose(4), ("a", " é ", "abcd")),
]
OUTSIDE = [
    (Number(0, 1), (-1e-9, 1.1, math.nan, math.inf, True, False, "0.5", None, [0], 10**400)),
    (Number(0, 1, above_low=True), (0, 0.0, -0.0)),
    (Number(-2, 3, integer=True), (-3, 4, 1.0, True, "1")),
    (Choice(("a", "b")), ("c", "", ["a"], None, 1)),
    (Switch(), (0, 1, "true", None)),
    (Name(), (None, 1, b"x")),
    (Prose(4), ("", " \n", "abcde", "a\ud800", "\udfff", None, 1)),
]


def cases(table):
    return [(values, value) for values, of_it in table for value in of_it]


@pytest.mark.parametrize("values, value", cases(INSIDE))
def test_inside(values, value):
    assert value in values
    Setting("key", 1, values, "The thing.").check(value)


@pytest.mark.parametrize("values, value", cases(OUTSIDE))
def test_outside(values, value):
    assert value not in values
    with pytest.raises(SettingError) as error:
        Setting("key", 1, values, "The thing. That is not.").check(value)
    assert error.value.setting == "key"
    message = str(error.value)
    if not isinstance(values, Prose):
        assert message.startswith(f"key must be {values}, got ")
    assert message.endswith("; it is the thing")
    assert len(message) < 300


@pytest.mark.parametrize(
    "value, words",
    [
        ("", "must be text that is not empty, got ''"),
        (1, "must be text that is not empty, got 1"),
        ("abcde", "must have at most 4 characters, got 5; shorten it"),
        ("a\ud800", "must be text, got half of a surrogate pair; send whole characters"),
    ],
    ids=["empty", "no text", "long", "half a character"],
)
def test_what_is_wrong_with_a_text(value, words):
    with pytest.raises(SettingError) as error:
        Setting("key", None, Prose(4), "The thing.").check(value)
    assert str(error.value) == f"key {words}; it is the thing"


@pytest.mark.parametrize(
    "values, words",
    [
        (Number(0, 1.0), "a number in [0, 1]"),
        (Number(0.01, 1, above_low=True), "a number in (0.01, 1]"),
        (Number(0, 2**32 - 1, integer=True), "an integer in [0, 4294967295]"),
        (Choice({"a": 1, "b": 2}), "one of a, b"),
        (Switch(), "true or false"),
    ],
)
def test_words(values, words):
    assert str(values) == words


def test_none_is_for_settings_that_may_be_left_open():
    Setting("key", None, Number(0, 1), "The thing.").check(None)
    with pytest.raises(SettingError, match="got None"):
        Setting("key", 0.5, Number(0, 1), "The thing.").check(None)


def test_other_settings_may_leave_less():
    with pytest.raises(SettingError, match=r"in \[0.5, 1\], got 0.2"):
        Setting("key", 1, Number(0, 1), "The thing.").check(0.2, Number(0.5, 1))


@pytest.mark.parametrize(
    "default, unset, expected",
    [(None, "", ""), (None, "all", "all"), (True, "", "true"), (1.0, "", "1.0"), ("a", "", "a")],
)
def test_shown_default(default, unset, expected):
    assert Setting("key", default, Switch(), "The thing.", unset=unset).shown_default == expected


def test_description():
    assert Setting("key", 1, Switch(), "The thing.").description == "The thing."
    described = Setting("key", 1, Number(0, 1), "The thing.").description
    assert described == "The thing. A number in [0, 1]."
