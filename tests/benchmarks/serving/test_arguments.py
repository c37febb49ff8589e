"""The command line."""

import pytest

from vllm_script.benchmarks import family_bench, serve_bench
from vllm_script.benchmarks.serving.cells import SCRIPT, UNUSED
from vllm_script.benchmarks.serving.requests import Size


def test_flags_after_two_dashes_go_to_the_servers():
    args = serve_bench.parse_arguments(["--seed", "3", "--", "--dtype", "float32"])
    assert args.seed == 3 and args.server_flags == ["--dtype", "float32"]


def test_quick_changes_defaults_only():
    args = serve_bench.parse_arguments(["--quick", "--concurrency", "2"])
    assert args.concurrency == [2] and args.keep_ratios == [0.11] and args.rates == []


def test_rates():
    args = serve_bench.parse_arguments(["--rates", "2", "0.7x"])
    assert args.rates == ["2", "0.7x"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--url-a", "http://a"], "give both --url-a and --url-b"),
        (["--url-a", "http://a", "--url-b", "http://b"], "--url-a needs --model"),
        (["--rates", "often"], "invalid rate_of value"),
    ],
)
def test_mistakes(given, words, capsys):
    with pytest.raises(SystemExit):
        serve_bench.parse_arguments(given)
    assert words in capsys.readouterr().err


def test_default_cells():
    args = serve_bench.parse_arguments(["--off"])
    cells = [str(cell) for cell in serve_bench.cells_of(args, [SCRIPT, UNUSED])]
    assert cells[:6] == [f"672x672, concurrency {n}" for n in (1, 2, 4, 8, 16, 32)]
    second = "672x672, concurrency 1, second question"
    assert cells[6:9] == ["336x336, concurrency 1", second, "672x672, rate 0.7x"]
    assert len(cells) == 9 + 2 * 4


def test_videos_are_sizes_with_a_number_of_frames():
    args = serve_bench.parse_arguments(["--sizes", "16x336x336", "--rates"])
    cells = [str(cell) for cell in serve_bench.cells_of(args, [])]
    assert cells[0] == "16x336x336, concurrency 1"
    args = family_bench.parse_arguments(["--sizes", "16x336x336", "84x84"])
    assert args.sizes == [Size(336, 336, 16), Size(84, 84)]
    with pytest.raises(SystemExit):
        family_bench.parse_arguments(["--sizes", "672"])


def test_malformed_size_is_named():
    args = serve_bench.parse_arguments(["--sizes", "672"])
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        serve_bench.cells_of(args, [])
