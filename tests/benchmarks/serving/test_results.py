"""From blocks to the file and the report, and resuming."""

import json

import pytest

from vllm_script.benchmarks.serving.results import Results, throughput_ratio, ttft_ratio
from vllm_script.benchmarks.serving.tables import plot, report


@pytest.fixture
def results(tmp_path, cell, lines):
    """Three concurrencies, the plugin 4 times as fast."""
    results = Results(tmp_path / "results.jsonl")
    for concurrency in (1, 2, 4):
        one = cell(concurrency)
        results.add(one, lines(one))
    return results


def test_line_has_what_a_reader_needs(results):
    stock, kept = results.of("84x84, concurrency 1")
    assert stock["ttft_ms"]["p50"] == pytest.approx(208, abs=3)
    assert stock["tpot_ms"]["p50"] == pytest.approx(10)  # 20 ms for the other two tokens
    assert stock["itl_ms"] == {"p50": 10, "p90": 15, "p99": 15}
    assert stock["requests"] == [2, 2, 2] and len(kept["blocks"]) == 3
    assert (stock["visual_kv_tokens"], kept["visual_kv_tokens"]) == (100, 11)
    assert stock["about"]["output_tokens"] == 3


def test_split_adds_up(results):
    stock, kept = results.of("84x84, concurrency 1")
    for line in (stock, kept):
        total = sum(value or 0 for value in line["split_ms"].values())
        mean = sum(t for block in line["blocks"] for t in block["ttft_s"]) / 6
        assert total == pytest.approx(1000 * mean, rel=1e-3)
    assert stock["split_ms"]["encoder"] is None and kept["split_ms"]["encoder"] == 10
    assert kept["split_ms"]["selection"] == 1 and kept["split_ms"]["queue"] == 10


def test_ratios(results):
    stock, kept = results.of("84x84, concurrency 4")
    for ratio in (ttft_ratio(stock, kept), throughput_ratio(kept, stock)):
        assert ratio.value == pytest.approx(4, rel=0.01) and ratio.low < 4 < ratio.high
    one = ttft_ratio(*results.of("84x84, concurrency 1"))
    many = ttft_ratio(stock, kept)
    assert one.high - one.low < many.high - many.low  # six pairs of requests, three of blocks


def test_resuming(results, cell, lines):
    again = Results(results.path)
    assert again.lines == results.lines
    assert again.has(cell(2)) and not again.has(cell(8)) and not again.has(cell(2, ratio=0.5))
    other = cell(2, ratio=0.5)
    again.add(other, lines(other))  # its arms must have been measured together
    assert len(again.of(str(other))) == 2 and not again.has(cell(2))
    assert [json.loads(line) for line in again.path.read_text().splitlines()] == again.lines


def test_another_run_is_refused(results):
    about = results.lines[0]["about"]
    assert Results(results.path, about).lines == results.lines
    with pytest.raises(ValueError, match="model tiny, not large; choose another --out"):
        Results(results.path, about | {"model": "large"})


def test_relative_rate(results, tmp_path):
    assert results.most_of_stock("84x84") == pytest.approx(5, rel=0.03)
    with pytest.raises(ValueError, match="measured before"):
        Results(tmp_path / "none.jsonl").most_of_stock("84x84")


def test_inter_token_latency_stands_beside_throughput(results):
    (header, *_) = [row for row in report(results, 0).splitlines() if row.startswith("| load")]
    titles = header.strip("| ").split(" | ")
    assert titles[titles.index("requests/s") - 1] == "ITL p50/p90/p99, ms"


def test_plot(results, tmp_path):
    plot(results, tmp_path)
    for name in ("throughput.png", "ttft.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["off", "serve"])
def test_committed_reports_follow_from_their_lines(committed, name):
    path = committed(name)
    written, again = path.read_text(), report(Results(path.with_suffix(".jsonl")), 1.5)
    if name == "serve":  # the notes above its tables have been reworded since
        written, again = (text[text.index("\n## ") :] for text in (written, again))
    assert again == written
