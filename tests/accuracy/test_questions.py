"""Where the questions come from."""

import json

import pytest
from accuracy.questions import demo_questions, folder_questions

LINE = {"image": "a.png", "question": "What color is the bus?", "answer": "red"}


def folder(tmp_path, *lines):
    (tmp_path / "a.png").write_bytes(b"picture")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "questions.jsonl").write_text(text)
    return tmp_path


def test_folder(tmp_path):
    second = LINE | {"answer": ["red", "crimson"], "kind": "color"}
    first, second = folder_questions(folder(tmp_path, LINE, second))
    assert first.answers == ("red",) and first.kind == "all"
    assert second.answers == ("red", "crimson") and second.kind == "color"
    assert first.data_url == "data:image/png;base64,cGljdHVyZQ=="
    assert first.id != second.id


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"image": "a.png", "question": "?"}, "answer"),
        (LINE | {"image": "b.png"}, "no picture"),
        (LINE | {"answer": 3}, "answer"),
        (LINE | {"answer": []}, "answer must be"),
    ],
)
def test_malformed_line_is_named(tmp_path, line, words):
    with pytest.raises(ValueError, match=f"questions.jsonl:2: .*{words}"):
        list(folder_questions(folder(tmp_path, LINE, line)))


def test_folder_without_questions(tmp_path):
    with pytest.raises(ValueError, match="questions.jsonl does not exist"):
        list(folder_questions(tmp_path))


def test_demo_questions_are_seeded_and_of_every_kind():
    first, again = (list(demo_questions("dev", 12)) for _ in range(2))
    assert first == again
    assert len({item.kind for item in first}) == 6
    assert not {item.picture for item in first} & {i.picture for i in demo_questions("test", 12)}
