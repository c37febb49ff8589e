"""Parts are run one after the other, once; each is in the report whatever became of it."""

import json
import re

import pytest

EVERYTHING = ["one", "two", "three"]


def counted(path):
    """Code that notes that it has been run."""
    return f"open({str(path)!r}, 'a').write('x')"


@pytest.fixture
def runs(tmp_path):
    """runs(name) -> how often the part of that name has been run."""
    return lambda name: len((tmp_path / name).read_text()) if (tmp_path / name).exists() else 0


@pytest.fixture
def three(part, tmp_path):
    """Parts of which each notes that it has been run."""
    return [part(name, counted(tmp_path / name)) for name in EVERYTHING]


def test_what_has_passed_is_not_run_again(session, three, runs, capsys):
    assert session(three).run(["one"], [])
    assert session(three).run(EVERYTHING, [])
    assert [runs(name) for name in EVERYTHING] == [1, 1, 1]
    shown = capsys.readouterr().out
    assert "[1/3] one: passed on 20" in shown and "[2/3] two: a part called two" in shown
    assert "[3/3] three: passed after 0:0" in shown and "three.log" in shown
    session(three).run([], ["two"])
    assert [runs(name) for name in EVERYTHING] == [1, 2, 1]


@pytest.mark.parametrize("changed", ["gpu", "driver", "versions", "sources"])
def test_another_gpu_or_version_is_another_run(session, three, runs, changed):
    session(three).run(EVERYTHING, [])
    session(three, **{changed: "another"}).run(EVERYTHING, [])
    assert [runs(name) for name in EVERYTHING] == [2, 2, 2]


def test_a_commit_of_the_same_sources_is_the_same_run(session, three, runs):
    session(three).run(EVERYTHING, [])
    session(three, commit="1c66f8a").run(EVERYTHING, [])
    assert [runs(name) for name in EVERYTHING] == [1, 1, 1]


def test_again_forgets_what_was_measured(session, part):
    forgotten = []
    one = part("one", forget=lambda: forgotten.append("one"))
    session([one]).run(["one"], [])
    assert not forgotten
    session([one]).run([], ["one"])
    assert forgotten == ["one"]


def test_a_part_that_fails_is_run_again_and_loses_no_other(session, part, three, runs, report):
    broken = "print('a cause'); import sys; sys.exit(3)"
    parts = [three[0], part("two", broken), three[2]]
    assert not session(parts).run(EVERYTHING, [])
    page, _ = report()
    assert "| two | failed | exit status 3; seen |" in page
    assert "## The end of two.log\n\n    a cause" in page
    assert session(three).run(EVERYTHING, [])
    assert [runs(name) for name in EVERYTHING] == [1, 1, 1]
    assert "| two | passed | seen |" in report()[0] and "a cause" not in report()[0]


def nothing():
    raise ValueError("it has left nothing behind")


def test_a_part_that_leaves_nothing_behind_has_failed(session, part, report):
    assert not session([part("one", found=nothing)]).run(["one"], [])
    assert "| one | failed | exit status 0; it has left nothing behind |" in report()[0]


def test_a_part_at_its_limit_has_failed(session, part, three, report):
    slow = part("one", "import time; time.sleep(600)", limit=1)
    assert not session([slow, three[1]]).run(EVERYTHING, [])
    page, _ = report()
    assert "| one | failed | stopped after 0:01, the most that a part may take | 1 |" in page
    assert "| two | passed |" in page


def test_ctrl_c_loses_the_part_that_runs(session, part, three, runs, report, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        session(three).run(["one"], [])
        patch.setattr("vllm_script.benchmarks.gpu.session.run", interrupt)
        session(three).run(EVERYTHING, [])
    assert "| one | passed |" in report()[0] and "| two | not run |" in report()[0]
    assert session(three).run(EVERYTHING, [])
    assert [runs(name) for name in EVERYTHING] == [1, 1, 1]


def test_what_cannot_be_run_says_why(session, part, report, capsys):
    small = part("one", missing=lambda machine: f"it has {machine.gib:.0f} GiB")
    assert session([small]).run(["one"], [])
    assert "| one | not run | it has 80 GiB |" in report()[0]
    assert "[1/1] one: not run: it has 80 GiB" in capsys.readouterr().out


def test_the_report_has_all_that_repeats_it(session, three, report):
    session(three).run(["one", "two"], [])
    page, folder = report()
    lines = page.splitlines()
    assert lines[0] == "# NVIDIA H100 80GB HBM3"
    assert lines[2] == "| goal | figure | verdict |"  # the first table
    for said in ("590.48", "vllm 0.33.0", "4d393ce", "python benchmarks/gpu_report.py", "80 GiB"):
        assert said in page
    assert re.search(r"- date: 20\d\d-\d\d-\d\d\n", page)
    assert re.search(r"\| one \| passed \| seen \| \d+ \| `python -c .*` \|", page)
    assert "| three | not run | it was not asked for |  |  |" in page
    kept = [json.loads(line) for line in (folder / "outcomes.jsonl").open()]
    assert [each["part"] for each in kept] == ["one", "two"]
    assert all(each["started"] and each["command"] and each["log"] for each in kept)


def test_logs_are_kept(session, part, tmp_path):
    session([part("one", "print('a line')")]).run(["one"], [])
    (log,) = tmp_path.glob("*/logs/one.log")
    assert log.read_text() == "a line\n"
