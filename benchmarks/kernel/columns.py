"""The columns of the table of times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .inputs import Shape
from .ops import Run
from .timing import Times, Work, product_flop, work_of

COLUMNS = {
    **{"op": "<13", "variant": "<12", "P": ">5", "D": ">5", "K": ">5", "batch": ">6"},
    **{"p20 ms": ">10.3f", "p50 ms": ">10.3f", "p80 ms": ">10.3f", "cold ms": ">10.3f"},
    **{"host ms": ">9.3f", "us/step": ">9.2f", "rounds": ">7", "TFLOP/s": ">9.1f"},
    **{"MB": ">9.1f", "GFLOP": ">9.1f", "roofline": ">10.1%"},
}
"""Of the table, with the form of their cells."""


def row_of(
    run: Run, shape: Shape, dtype: torch.dtype, times: Times, rounds: int, peak: Work
) -> dict[str, Any]:
    """The columns of one call; None where one does not apply."""
    work, published = work_of(run.op, shape, dtype), run.variant == "published"
    flop = product_flop(shape) if run.variant.startswith("mm ") else work.flop
    milliseconds = [None if seconds is None else 1e3 * seconds for seconds in times]
    names = ("p20 ms", "p50 ms", "p80 ms", "cold ms", "host ms")
    return {
        **{"op": run.op, "variant": run.variant, "P": shape.tokens, "D": shape.dim},
        **{"K": shape.budget, "batch": shape.batch},
        **dict(zip(names, milliseconds, strict=True)),
        "us/step": 1e6 * times.p50 / shape.budget if run.op == "greedy_map" else None,
        "rounds": rounds if run.op in ("reduce_graph", "selection") and not published else None,
        "TFLOP/s": flop / times.p50 / 1e12 if run.op == "similarity" else None,
        **{"MB": work.bytes / 1e6, "GFLOP": work.flop / 1e9},
        "roofline": max(work.bytes / peak.bytes, work.flop / peak.flop) / times.p50,
    }


def line_of(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    return "".join(cell_of(name, row[name]) for name in COLUMNS)


def cell_of(column: str, value: Any) -> str:
    """A value in the form of its column; what does not apply is empty."""
    form = COLUMNS[column]
    return f"{'':{_width(form)}}" if value is None else f"{value:{form}}"


def _width(form: str) -> str:
    """Alignment and width of a form, without its precision."""
    return form.partition(".")[0]


HEADER = "".join(f"{name:{_width(form)}}" for name, form in COLUMNS.items())
