"""The table on stdout, and on stderr what is being done."""

from __future__ import annotations

import sys
from typing import Any


def print_header() -> None:
    print(f"{'op':<12}{'variant':<11}{'P':>6}{'D':>6}{'K':>6}{'batch':>6}", end="")
    print(f"{'p20 ms':>10}{'p50 ms':>10}{'p80 ms':>10}{'MB':>9}{'GFLOP':>9}{'roofline':>10}")


def print_row(row: dict[str, Any]) -> None:
    print(f"{row['op']:<12} {row['variant']:<10}{row['P']:>6}{row['D']:>6}{row['K']:>6}", end="")
    print(f"{row['batch']:>6}{row['p20_ms']:>10.3f}{row['p50_ms']:>10.3f}", end="")
    print(f"{row['p80_ms']:>10.3f}{row['bytes'] / 1e6:>9.1f}{row['flop'] / 1e9:>9.1f}", end="")
    print(f"{row['roofline_share']:>10.1%}", flush=True)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
