"""Every real part: its command is understood, and what it leaves behind is judged."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from _pytest.mark.expression import Expression

from vllm_script.benchmarks import gpu_report
from vllm_script.benchmarks.gpu import parts as module
from vllm_script.benchmarks.gpu.parts import LIMIT, all_parts
from vllm_script.benchmarks.serving.results import Results

ROOT = Path(__file__).resolve().parents[3]
PARTS = {part.name: part for part in all_parts(ROOT / "runs" / "gpu", ROOT)}
FOLDERS = {"tests/kernels", "tests/worker"}
OF_PYTEST = [name for name, part in PARTS.items() if "pytest" in part.arguments]
OTHERS = [name for name in PARTS if name not in OF_PYTEST]


@pytest.fixture(scope="module")
def gpu_tests():
    """Ids of the tests that need a GPU, by folder."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu", *FOLDERS]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr
    tests = [line for line in shown.stdout.splitlines() if "::" in line]
    return {folder: [test for test in tests if test.startswith(folder)] for folder in FOLDERS}


def is_chosen(test, expression):
    """Whether pytest's -k chooses a test; all of its names count."""
    names = re.split(r"/|::", test.lower())
    return Expression.compile(expression).evaluate(
        lambda word, **_: any(word.lower() in name for name in names)
    )


@pytest.mark.slow
def test_every_gpu_test_is_in_one_part(gpu_tests):
    found = []
    for name in OF_PYTEST:
        arguments = PARTS[name].arguments
        (folder,) = FOLDERS & set(arguments)
        only = arguments[arguments.index("-k") + 1] if "-k" in arguments else "tests"
        chosen = [test for test in gpu_tests[folder] if is_chosen(test, only)]
        assert chosen, name
        found += chosen
    assert len(OF_PYTEST) > 5 and len(found) > 50
    assert sorted(found) == sorted(sum(gpu_tests.values(), []))


def test_pytest_understands_its_command(tmp_path):
    part = next(p for p in all_parts(tmp_path, ROOT) if p.name == "sanitizer-racecheck")
    command = [*part.command, "--collect-only"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0 and "1/" in shown.stdout, shown.stdout


@pytest.mark.parametrize("name", OTHERS)
def test_commands_are_understood(name):
    script, *arguments = PARTS[name].arguments
    assert (ROOT / script).exists()
    command = importlib.import_module(f"vllm_script.benchmarks.{Path(script).stem}")
    parsed = command.parse_arguments(arguments)
    if name.startswith("serve"):
        assert parsed.rates == [] and parsed.keep_ratios == [0.11]
        assert parsed.server_flags[:1] == ["--api-server-count"]
    if "out" in parsed:
        assert str(parsed.out).startswith("runs/gpu/")


def test_all_are_asked_for_unless_some_are(capsys):
    every = gpu_report.parse_arguments([])
    assert every.only == list(PARTS) and not every.again
    one = gpu_report.parse_arguments(["--again", "kernels"])
    assert (one.only, one.again) == ([], ["kernels"])
    with pytest.raises(SystemExit):
        gpu_report.parse_arguments(["--only", "kernel"])
    assert "'kernel' (choose from" in capsys.readouterr().err


def test_none_may_take_longer_than_ten_minutes():
    assert {part.limit for part in PARTS.values()} == {LIMIT} == {600}


JUNIT = """<?xml version="1.0"?><testsuites><testsuite errors="{errors}" failures="{failures}"
skipped="{skipped}" tests="{tests}"></testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({"tests": 5, "skipped": 1}, "4 passed, 0 failed, 1 skipped"),
        ({"tests": 5, "failures": 1}, ValueError),
        ({"tests": 5, "errors": 1}, ValueError),
        ({"tests": 3, "skipped": 3}, ValueError),  # nothing was tested
        ({"tests": 0}, ValueError),
    ],
    ids=str,
)
def test_tests_are_counted(tmp_path, counts, found):
    counts = {"errors": 0, "failures": 0, "skipped": 0} | counts
    (tmp_path / "tests-worker.xml").write_text(JUNIT.format(**counts))
    part = next(p for p in all_parts(tmp_path, ROOT) if p.name == "tests-worker")
    if found is ValueError:
        with pytest.raises(ValueError, match="passed"):
            part.found()
    else:
        assert part.found() == found


def test_pytest_writes_what_is_counted(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_one(): pass\ndef test_two(): assert 0")
    (tmp_path / "tests-worker.xml").touch()
    command = [sys.executable, "-m", "pytest", "-q", "test_it.py", "-p", "no:cacheprovider"]
    command += ["--rootdir=.", "--junitxml=tests-worker.xml"]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    part = next(p for p in all_parts(tmp_path, ROOT) if p.name == "tests-worker")
    with pytest.raises(ValueError, match="1 passed, 1 failed, 0 skipped"):
        part.found()


@pytest.mark.parametrize("name", PARTS)
def test_nothing_left_behind_is_no_pass(tmp_path, name):
    part = next(p for p in all_parts(tmp_path, tmp_path) if p.name == name)
    with pytest.raises((ValueError, OSError)):
        part.found()


def test_a_load_is_measured_again(tmp_path, cell, lines):
    parts = {part.name: part for part in all_parts(tmp_path, ROOT)}
    path = tmp_path / "serve-llava-next-7b" / "results.jsonl"
    parts["serve-llava-next-7b-8"].forget()  # there is nothing yet
    path.parent.mkdir()
    for concurrency in (1, 8):
        each = cell(concurrency, picture="672x672")
        Results(path).add(each, lines(each))
    assert parts["serve-llava-next-7b-8"].found() == "20.00 requests/s, stock vLLM 5.00"
    parts["serve-llava-next-7b-8"].forget()
    with pytest.raises(ValueError):
        parts["serve-llava-next-7b-8"].found()
    assert parts["serve-llava-next-7b-1"].found()


def test_what_is_missing_is_said(machine, monkeypatch, tmp_path):
    free = SimpleNamespace(free=14.4 * module.GIB)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda root: free)
    small = PARTS["serve-llava-next-7b-8"].missing(machine(gib=23.6))
    assert small == "two servers need 44 GiB of GPU memory, this one has 24"
    full = PARTS["serve-llava-next-7b-8"].missing(machine())
    assert full == "its weights take 14 GiB of disk, 14 are free"
    free.free = 100 * module.GIB
    assert PARTS["serve-llava-next-7b-8"].missing(machine()) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert "not on PATH nor in CUDA_HOME" in PARTS["sanitizer-memcheck"].missing(machine())
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert PARTS["tests-worker"].missing(machine()) == "this Python has no pytest"
    assert PARTS["serve-qwen2.5-vl-3b-1"].missing(machine()) == "this Python has no scipy"
