"""Where the questions come from."""

import json

import pytest

from vllm_script.benchmarks.accuracy.questions import demo_questions, folder_questions, is_right
from vllm_script.benchmarks.scenes.held_out import held_out
from vllm_script.benchmarks.scenes.questions import questions_of

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
    url = {"url": "data:image/png;base64,cGljdHVyZQ=="}
    assert first.part == {"type": "image_url", "image_url": url}
    assert first.id != second.id


def test_follow_ups_are_later_turns_of_a_chat_about_the_same_picture(tmp_path):
    then = [
        {"question": "Is it full?", "answer": ["no", "yes", "yes"], "rule": "vqa"},
        {"question": "Where is it?", "answer": "here", "kind": "place"},
    ]
    first, second, third = folder_questions(folder(tmp_path, LINE | {"then": then}))
    assert [item.id for item in (first, second, third)] == ["1", "1.1", "1.2"]
    assert [item.kind for item in (first, second, third)] == ["all", "follow-up", "place"]
    assert [item.rule for item in (first, second, third)] == ["exact", "vqa", "exact"]
    (turn,) = first.request["messages"]
    assert turn["content"] == [first.part, {"type": "text", "text": LINE["question"]}]
    turns = third.request["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    texts = [turn["content"][-1]["text"] for turn in turns]
    assert texts == [LINE["question"], "red", "Is it full?", "yes", "Where is it?"]
    assert [len(turn["content"]) for turn in turns] == [2, 1, 1, 1, 1]  # one picture, at first


def test_the_rule_of_lines_that_name_none(tmp_path):
    lines = (LINE, LINE | {"rule": "choice", "answer": "B"})
    assert [i.rule for i in folder_questions(folder(tmp_path, *lines))] == ["exact", "choice"]
    assert [i.rule for i in folder_questions(tmp_path, "anls")] == ["anls", "choice"]


def test_videos_are_files_or_folders_of_frames(tmp_path):
    (tmp_path / "b.mp4").write_bytes(b"video")
    (tmp_path / "c").mkdir()
    for name in ("2.jpg", "1.jpg"):
        (tmp_path / "c" / name).write_bytes(name.encode())
    line = {"question": "What happens?", "answer": "nothing"}
    lines = ({"video": "b.mp4"} | line, {"video": "c"} | line)
    file, frames = folder_questions(folder(tmp_path, *lines))
    url = {"url": "data:video/mp4;base64,dmlkZW8="}
    assert file.part == {"type": "video_url", "video_url": url}
    assert frames.part["video_url"]["url"] == "data:video/jpeg;base64,MS5qcGc=,Mi5qcGc="


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"image": "a.png", "question": "?"}, "answer"),
        (LINE | {"image": "b.png"}, "no picture"),
        (LINE | {"video": "b.mp4"}, "no video"),
        (LINE | {"answer": 3}, "answer"),
        (LINE | {"answer": []}, "answer must be"),
        (LINE | {"then": [{"question": "?"}]}, "answer"),
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


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("Red.", ["red"], True),
        ("the left", ["left"], True),
        ("A bus", ["truck", "bus"], True),
        ("reddish", ["red"], False),
        ("red and blue", ["red"], False),
        ("", ["red"], False),
        ("U.S.", ["u.s"], True),
    ],
)
def test_is_right(answer, accepted, right):
    assert is_right(answer, accepted) == right


@pytest.mark.parametrize("earlier", [1, 2])
def test_follow_ups_of_three_kinds(earlier):
    alone = {item.id: item for item in demo_questions("dev", 24)}
    chats = list(demo_questions("dev", 24, earlier))
    assert len({chat.id for chat in chats}) == len(chats)
    assert {chat.kind for chat in chats} == {"same thing", "other thing", "whole scene"}
    for chat in chats:
        item = alone[chat.id.removesuffix(f" {chat.kind}")]
        assert (item.question, item.answers) == (chat.question, chat.answers)
        assert item.picture == chat.picture
        assert item.earlier == () and len(chat.earlier) == earlier
        assert (item.kind in ("count", "existence")) == (chat.kind == "whole scene")
        assert chat.question not in dict(chat.earlier)
    assert len(item.request["messages"]) == 1
    turns = [message["role"] for message in chats[0].request["messages"]]
    assert turns == ["user", "assistant"] * earlier + ["user"]


def test_what_is_asked_before_is_about_the_same_thing_or_others():
    scenes = {f"dev-{index}": drawn for index, drawn in enumerate(held_out("dev", 24))}
    for chat in demo_questions("dev", 24, 2):
        scene, question = scenes[chat.id.split(" ")[0]]
        known = {other.text: other for other in questions_of(scene)}
        for text, answer in chat.earlier:
            before = known[text]
            assert before.answer == answer and len(before.relevant) == 1
            if chat.kind != "whole scene":
                is_same = before.relevant == question.relevant
                assert is_same == (chat.kind == "same thing")
