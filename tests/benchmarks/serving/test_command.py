"""The command itself, against real servers."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image

from vllm_script.benchmarks import serve_bench
from vllm_script.benchmarks.serving import cells, measure

SMALL = ("--sizes", "84x84", "--input-tokens", "8", "--output-tokens", "4")


@pytest.fixture
def run(monkeypatch, checkpoint):
    """run(stock's server, the other's, out, *arguments): serve_bench.py, on running servers."""
    monkeypatch.setattr(cells, "RATE_SECONDS", 1)
    monkeypatch.setattr(measure, "SETTLE_SECONDS", 0)

    def run(stock, script, out, *arguments):
        urls = ("--url-a", stock.url, "--url-b", script.url)
        own = ("--quick", "--model", str(checkpoint("llava-next")), "--out", str(out))
        monkeypatch.setattr(sys, "argv", ["serve_bench.py", *own, *urls, *SMALL, *arguments])
        serve_bench.main()

    return run


def test_small_run(stock_server, pruning_server, run, tmp_path, capsys):
    arguments = ("--concurrency", "1", "3", "--rates", "0.5x", "--keep-ratios", "0.11", "0.5")
    arguments += ("--repetitions", "1", "--off", "--launches", "1")
    run(stock_server, pruning_server, tmp_path, *arguments)
    written = (tmp_path / "results.jsonl").read_bytes()
    lines = [json.loads(line) for line in written.splitlines()]
    loads = ["concurrency 1", "concurrency 3", "rate 0.5x"]
    off = "84x84, concurrency 1, keep 1 against stock, launch 1"
    expected = [(f"84x84, {x}", a) for x in loads for a in ("stock", "keep 0.11", "keep 0.5")]
    again = "84x84, concurrency 1, second question"
    expected[6:6] = [(again, "keep 0.11"), (again, "keep 0.11, known picture")]
    expected += [(off, "stock"), (off, "keep 1")]
    assert [(line["cell"], line["arm"]) for line in lines] == expected
    tokens = {line["arm"]: line["visual_kv_tokens"] for line in lines}
    known = tokens.pop("keep 0.11, known picture")
    assert tokens == {"stock": 78, "keep 0.11": 9, "keep 0.5": 39, "keep 1": 78} and known == 9
    spans = {line["arm"]: line["spans_ms"] for line in lines if line["again"]}
    for name in ("preprocess", "encoder"):
        assert spans["keep 0.11"][name] > 0 == spans["keep 0.11, known picture"][name]
    assert spans["keep 0.11, known picture"]["selection"] > 0
    for line in lines:
        assert line["requests_per_s"] > 0 and min(line["split_ms"]["preprocess"], 1) > 0
        assert (line["split_ms"]["selection"] is None) == (line["arm"] in ("stock", "keep 1"))
    assert "84x84, 8 text tokens + picture in, 4 tokens out" in (tmp_path / "report.md").read_text()
    assert {path.name for path in tmp_path.glob("*.png")} == {"throughput.png", "ttft.png"}

    run(stock_server, pruning_server, tmp_path, *arguments)  # nothing is left to measure
    assert (tmp_path / "results.jsonl").read_bytes() == written
    capsys.readouterr()


def test_folder_of_pictures(stock_server, pruning_server, run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in (("a.png", (84, 84)), ("b.jpg", (168, 168))):
        Image.new("RGB", size, "green").save(folder / name)
    arguments = ("--pictures", str(folder), "--concurrency", "2", "--repetitions", "1")
    run(stock_server, pruning_server, tmp_path, *arguments)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
    assert [(line["picture"], line["arm"]) for line in lines] == [
        ("pictures", "stock"), ("pictures", "keep 0.11"), ("pictures", "keep 0.11"),
        ("pictures", "keep 0.11, known picture"),
    ]  # fmt: skip
    kept = (9 + 21) / 2
    assert [line["visual_kv_tokens"] for line in lines] == [(78 + 192) / 2, kept, kept, kept]


def test_server_that_does_not_prune_is_found(stock_server, run, tmp_path):
    with pytest.raises(SystemExit, match="keep 0.11: request 0 had .* prompt tokens, expected"):
        run(stock_server, stock_server, tmp_path)
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.slow  # starts three servers of its own, which stock and script above share with others
def test_starts_and_stops_servers(checkpoint, tmp_path):
    script = Path(serve_bench.__file__)
    command = [sys.executable, str(script), "--model", str(checkpoint("llava-next")), "--quick"]
    command += [*SMALL, "--concurrency", "1", "--repetitions", "1", "--off", "--launches", "1"]
    flags = ["--", "--max-model-len", "4096", "--block-size", "32"]
    env = os.environ | {"PYTHONSAFEPATH": ""}
    done = subprocess.run([*command, "--out", str(tmp_path), *flags], env=env, check=True)
    assert done.returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").open()]
    assert [line["arm"] for line in lines] == [
        "stock", "keep 0.11", "keep 0.11", "keep 0.11, known picture",
        "stock", "keep 1", "stock", "unused",
    ]  # fmt: skip
    assert all(line["idle_cores"] < 0.2 for line in lines)


@pytest.mark.slow  # starts a server of its own
def test_sigterm_stops_servers(checkpoint, tmp_path):
    command = [sys.executable, serve_bench.__file__, "--model", str(checkpoint("llava-next"))]
    process = subprocess.Popen([*command, "--out", str(tmp_path), *SMALL])
    child = psutil.Process(process.pid)
    deadline = time.monotonic() + 120
    while not (servers := child.children(recursive=True)) and time.monotonic() < deadline:
        time.sleep(0.5)
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert servers and not any(server.is_running() for server in servers)
