"""The command's report, and that of the check."""

import re
import sys
from contextlib import nullcontext
from dataclasses import fields
from types import SimpleNamespace

import pytest

from vllm_script.benchmarks import scale
from vllm_script.benchmarks.common import read_lines
from vllm_script.benchmarks.scaling.check import PAIR, check_report
from vllm_script.benchmarks.scaling.costs import Costs
from vllm_script.benchmarks.scaling.deployment import Load
from vllm_script.benchmarks.serving.cells import SCRIPT
from vllm_script.benchmarks.serving.checks import WrongOutputs

from .test_costs import TRUE, arm


@pytest.fixture
def printed(monkeypatch, capsys):
    """printed(*words) -> what the command prints."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["scale.py", *words])
        scale.main()
        return capsys.readouterr().out

    return run


def test_the_table(printed):
    text = printed("--requests-per-s", "100", "--encoder-ms", "7", "--selection-ms", "5")
    assert "Modelled, with costs of llava-next-7b, dummy weights on NVIDIA H200" in text
    assert "| prompt tokens | 2,966 | 360 |" in text
    assert "| encoder and selection, ms a request | 7.0 | 12.0 |" in text
    assert "| or encoder instances | 1 | 2 |" in text
    assert "| between these, MB/s | 2398.6 | 263.8 |" in text
    assert "| of 32 in an instance, GiB | 46.59 | 5.88 |" in text


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--keep-ratio", "0.3"], "scale.py: .*give --selection-ms"),
        (["--busy", "0"], "scale.py: --busy is 0; give a share"),
    ],
)
def test_what_is_missing_or_wrong_is_said(monkeypatch, words, error):
    monkeypatch.setattr(sys, "argv", ["scale.py", *words])
    with pytest.raises(SystemExit, match=error):
        scale.main()


@pytest.mark.parametrize(
    ("asked", "measured"), [("0.11", [1.0, 0.5, 0.11]), ("0.5", [1.0, 0.5]), ("1", [1.0, 0.5])]
)
def test_the_check_measures_a_keep_ratio_once(monkeypatch, tmp_path, asked, measured):
    def measure(cell, *rest):
        raise WrongOutputs(f"{[arm.keep_ratio for arm in cell.arms]}")

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setattr(scale, "Expected", lambda model: SimpleNamespace(model=model))
    monkeypatch.setattr(scale, "servers", lambda *words: nullcontext({}))
    monkeypatch.setattr(scale, "measure", measure)
    words = ["--check", "--keep-ratio", asked, "--model", str(tmp_path), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["scale.py", *words])
    with pytest.raises(SystemExit, match=re.escape(str(measured))):
        scale.main()


def test_unpruned_has_one_column(printed):
    assert "| keep ratio 1 |\n" in printed("--keep-ratio", "1", "--selection-ms", "0")


@pytest.mark.parametrize("kind", [Costs, Load])
def test_every_field_has_an_option(kind):
    for field in fields(kind):
        args = scale.parse_arguments([f"--{field.name.replace('_', '-')}", "3"])
        assert scale.given(args, kind) == {field.name: 3}


def checked():
    """Lines of a check whose pair does 0.9 times what is modelled."""
    found = []
    for ratio, tokens in ((1.0, 2966), (0.11, 360)):
        one = arm(TRUE, tokens, ratio, server=SCRIPT, kv_cache_tokens=2048)
        rows = {"server": PAIR, "bytes_moved": (tokens - 38) * 4 * 4096 + 90.0}
        longer = TRUE.language_ms(tokens, 16)
        found += [one, one | rows | {"requests_per_s": 0.9 * 1000 / longer}]
    return found


def test_the_report_of_a_check():
    """The language model is the longer stage: 97 ms unpruned, 19 pruned."""
    text = check_report(checked())
    assert "| 1 | 9.526 | 8 | 97 | 10.311 | 9.280 | 0.90 | 47,972,352 | 47,972,442 |" in text
    assert "| 0.11 | 31.447 | 13 | 19 | 53.191 | 47.872 | 0.90 | 5,275,648 | 5,275,738 |" in text
    assert "holds 2,048 tokens, by the modelled 1,048,576 bytes of a token 2.000 GiB." in text


def test_the_committed_report_follows_from_its_lines(committed):
    path = committed("scale")
    lines = read_lines(path.with_suffix(".jsonl"))
    assert check_report(lines) in path.read_text()
