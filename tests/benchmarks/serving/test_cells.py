"""Which blocks are measured, and in which order."""

from vllm_script.benchmarks.serving.cells import (
    SCRIPT,
    STOCK,
    UNUSED,
    Arm,
    block_size,
    grid,
    in_turns,
    off_cells,
)

A, B, C = Arm(STOCK), Arm(SCRIPT, 0.11), Arm(SCRIPT, 0.5)


def test_order_is_abba():
    assert in_turns((A, B), 3) == [(0, A), (0, B), (1, B), (1, A), (2, A), (2, B)]
    assert [arm for _, arm in in_turns((A, B, C), 2)] == [A, B, C, C, B, A]


def test_second_question_comes_second():
    *_, cell, _ = grid(["672x672"], [1], ["1"], [0.11, 0.5], 4, 3)
    first, second = cell.arms
    assert cell.again and (first, second) == (B, Arm(SCRIPT, 0.11, known=True))
    assert [arm for _, arm in in_turns(cell.arms, 2)] == [first, second, first, second]
    assert cell.servers == {STOCK, SCRIPT}


def test_grid_varies_the_load_and_then_the_picture():
    cells = grid(["672x672", "336x336"], [1, 32], ["0.7x"], [0.11, 0.5], 4, 3)
    assert [str(cell) for cell in cells] == [
        "672x672, concurrency 1", "672x672, concurrency 32", "336x336, concurrency 1",
        "672x672, concurrency 1, second question", "672x672, rate 0.7x",
    ]  # fmt: skip
    assert all(cell.arms == (A, B, C) for cell in cells if not cell.again)
    assert cells[0].servers == {STOCK, SCRIPT}


def test_off_cells_have_two_servers_at_a_time():
    cells = off_cells("672x672", 2, [SCRIPT, UNUSED])
    assert [cell.launch for cell in cells] == [1, 1, 2, 2]
    assert all(len(cell.servers) == 2 and cell.arms[0] == A for cell in cells)
    assert [str(cell.arms[1]) for cell in cells[:2]] == ["keep 1", "unused"]
    assert len({str(cell) for cell in cells}) == 4


def test_block_is_as_large_as_its_load():
    few, many, _ = grid(["84x84"], [1, 32], [], [0.11], 4, 3)
    assert (block_size(few, None), block_size(many, None)) == (4, 32)
    assert block_size(few, 2.0) == 60
