"""Which blocks are measured, in which order, and the command lines that say so."""

import pytest

from vllm_script.benchmarks import family_bench, serve_bench
from vllm_script.benchmarks.serving.cells import (
    SCRIPT,
    STOCK,
    TOWER,
    UNUSED,
    Arm,
    block_size,
    family_cells,
    in_turns,
)
from vllm_script.benchmarks.serving.requests import Size

A, B, C = Arm(STOCK), Arm(SCRIPT, 0.11), Arm(SCRIPT, 0.5)
PICTURE, VIDEO = Size(672, 672), Size(336, 336, 16)


def cells_of(*arguments):
    args = serve_bench.parse_arguments(arguments)
    return serve_bench.cells_of(args, [SCRIPT, UNUSED])


def test_order_is_abba():
    assert in_turns((A, B), 3) == [(0, A), (0, B), (1, B), (1, A), (2, A), (2, B)]
    assert [arm for _, arm in in_turns((A, B, C), 2)] == [A, B, C, C, B, A]


def test_grid_varies_the_load_and_then_the_picture():
    *cells, second_question, rate = cells_of()
    loads = [f"672x672, concurrency {n}" for n in (1, 2, 4, 8, 16, 32)]
    assert [str(cell) for cell in cells] == [*loads, "336x336, concurrency 1"]
    assert str(rate) == "672x672, rate 0.7x"
    for cell in (*cells, rate):
        assert cell.arms == (A, B, C) and cell.servers == {STOCK, SCRIPT} and not cell.again
    first, second = second_question.arms
    assert str(second_question) == "672x672, concurrency 1, second question"
    assert second_question.again and (first, second) == (B, Arm(SCRIPT, 0.11, known=True))
    assert [arm for _, arm in in_turns((first, second), 2)] == [first, second, first, second]
    assert second_question.servers == {STOCK, SCRIPT}


def test_off_cells_have_two_servers_at_a_time():
    cells = cells_of("--off", "--launches", "2")[-4:]
    assert [cell.launch for cell in cells] == [1, 1, 2, 2]
    assert all(len(cell.servers) == 2 and cell.arms[0] == A for cell in cells)
    assert [str(cell.arms[1]) for cell in cells[:2]] == ["keep 1", "unused"]
    assert len({str(cell) for cell in cells}) == 4


def test_block_is_as_large_as_its_load():
    few, many, *_ = cells_of("--concurrency", "1", "32")
    assert (block_size(few, None), block_size(many, None)) == (4, 32)
    assert block_size(few, 2.0) == 60


def test_families_in_an_order_that_changes_servers_least():
    cells = family_cells("a", [PICTURE, VIDEO], ("image", "video"), ("evs", "vidcom2"), 0.25, 3, 2)
    assert [str(cell) for cell in cells] == [
        "a, 672x672, keep 0.25", "a, 16x336x336, keep 0.25", "a, 16x336x336, evs 0.25",
        "a, 16x336x336, vidcom2 0.25",
    ]  # fmt: skip
    assert all(cell.arms[0] == A and len(cell.servers) == 2 for cell in cells)
    assert [cell.arms[1].asked for cell in cells] == [0.25, 0.25, None, None]
    cells = family_cells("a", [PICTURE, VIDEO], ("image", "video"), ("evs",), 0.25, 3, 2, (TOWER,))
    assert [str(cell) for cell in cells] == [
        "a, 672x672, tower 0.25", "a, 16x336x336, tower 0.25", "a, 16x336x336, evs 0.25",
    ]  # fmt: skip
    assert cells[0].arms == (A, Arm(SCRIPT, 0.25), Arm(TOWER, 0.25)) and len(cells[2].arms) == 2
    assert [arm.asked for arm in cells[0].arms] == [None, 0.25, 0.25]
    (cell,) = family_cells("a", [PICTURE, VIDEO], ("image",), ("evs",), 0.25, 3, 2)
    assert cell.picture == "672x672" and cell.arms == (A, Arm(SCRIPT, 0.25))
    assert (cell.concurrency, cell.requests, cell.repetitions) == (1, 3, 2)
    (cell,) = family_cells("a", [PICTURE], ("image",), (), 0.25, 3, 2, concurrency=8)
    assert str(cell) == "a, 672x672, concurrency 8, keep 0.25" and block_size(cell, None) == 8


def test_command_line():
    args = serve_bench.parse_arguments(["--quick", "--concurrency", "2", "--", "--dtype", "half"])
    assert args.concurrency == [2] and args.keep_ratios == [0.11] and args.rates == []
    assert args.server_flags == ["--dtype", "half"]
    assert str(cells_of("--sizes", "16x336x336")[0]) == "16x336x336, concurrency 1"
    args = family_bench.parse_arguments(["--sizes", "16x336x336", "672x672"])
    assert args.sizes == [VIDEO, PICTURE]


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


def test_malformed_size_is_named():
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        cells_of("--sizes", "672")
    with pytest.raises(SystemExit):
        family_bench.parse_arguments(["--sizes", "672"])
