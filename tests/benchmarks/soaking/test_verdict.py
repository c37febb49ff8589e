"""Memory that grows, logs that complain, and the report of both."""

import random

import pytest

from vllm_script.benchmarks.soaking.client import Outcome, Request
from vllm_script.benchmarks.soaking.ledger import Ledger
from vllm_script.benchmarks.soaking.report import report
from vllm_script.benchmarks.soaking.samples import MIB
from vllm_script.benchmarks.soaking.verdict import DRIFT, Check, growth_check, log_checks

ERROR = "(APIServer pid=1) ERROR 11-23 [core.py:1] "


def run(leak, noise=8.0, peak=0.0):
    """Looks at a run of 180: warm-up, then so many MiB more each; one in seven sees a peak."""
    rng = random.Random(0)
    sizes = [1600 + 200 * min(n / 40, 1) + leak * n + rng.gauss(0, noise) for n in range(180)]
    sizes = [size + (peak if n % 7 == 0 else 0) for n, size in enumerate(sizes)]
    return [{"requests": 30 * n, "memory_mib": {"a": s - 90, "b": 90}} for n, s in enumerate(sizes)]


@pytest.mark.parametrize(
    ("leak", "peak", "passed"),
    [(0, 0, True), (-0.5, 0, True), (1, 0, False), (5, 0, False), (0, 500, True)],
)
def test_growth(leak, peak, passed):
    check = growth_check(run(leak, peak=peak))
    assert check.passed == passed, check.found


def test_growth_a_request():
    assert growth_check(run(1, noise=0)).found.endswith(f"+{1024 / 30:.2f} KiB a request")


@pytest.mark.parametrize(
    ("log", "passed"),
    [
        ("INFO all is well\nWARNING not quite", True),
        (ERROR + "Error with model error=ErrorInfo(message='...', code=404)", True),
        (ERROR + "EngineCore failed", False),
        ("Traceback (most recent call last):", False),
    ],
)
def test_errors_in_the_log(log, passed):
    errors, _ = log_checks(log, resent=0)
    assert errors.passed == passed


def test_requests_are_sent_again_for_vllms_reason_alone():
    log = f"WARNING {DRIFT}; returning a retryable response"
    assert [check.passed for check in log_checks(log, resent=1)] == [True, True]
    assert [check.passed for check in log_checks(log, resent=2)] == [True, False]


def test_report():
    ledger = Ledger()
    ledger.add(Request("question", {}, prompt_tokens=5), Outcome(200, 5))
    ledger.add(Request("question", {}, prompt_tokens=5), Outcome(500, text="oh"))
    sample = {"seconds": 3.0, "requests": 2, "memory_mib": {"a": 1500.0, "b": 90.0}}
    sample |= {"running": 1, "waiting": 0, "preemptions": 0, "cache_bytes": {"pixels": 2 * MIB}}
    checks = [Check("memory", True, "flat"), Check("answers", False, "1")]
    text = report({"model": "tiny"}, checks, ledger, [sample])
    assert "**1 of 2 checks failed.**" in text
    assert "| answers | NO | 1 |" in text
    assert "- question: 500 instead of 200: oh" in text
    assert "| question | 2 | 1 x 200, 1 x 500 |" in text
    assert "| 3 | 2 | 1590 | 1 | 0 | 0 | 2.0 |" in text
