"""What is read of a log of chat requests; the mistakes are tested with the command."""

import json

from vllm_script.benchmarks.tuning.log import media_parts, read_log

PICTURE = {"type": "image_url", "image_url": {"url": "http://host/a.jpg"}}
VIDEO = {"type": "video_url", "video_url": {"url": "http://host/a.mp4"}}


def body(*parts, **more):
    return {"messages": [{"role": "system", "content": "Be short."},
                         {"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}],
            **more}  # fmt: skip


def test_requests_with_pictures_or_videos(tmp_path):
    lines = [
        body(PICTURE, model="m", temperature=1, max_tokens=9, script={}, tools=[]),
        body(),
        {"custom_id": "1", "url": "/v1/chat/completions", "body": body(VIDEO, PICTURE)},
        {"messages": [{"role": "user", "content": "Hello."}]},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    first, second = read_log(path)
    assert first.request == body(PICTURE, tools=[]) and first.answers == ()
    assert second.request == body(VIDEO, PICTURE)
    assert (first.id, second.id) == ("1", "5")
    assert media_parts(second.request["messages"]) == [VIDEO, PICTURE]
