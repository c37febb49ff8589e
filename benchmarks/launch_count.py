"""How many launches on a GPU each mode takes to select in one image, counted on any machine.

    python benchmarks/launch_count.py

Triton's interpreter runs the kernels, and every launch of one counts. PyTorch's operators between
them count once each, but for those that only make a view or allocate. The numbers do not depend on
how many tokens there are or are kept.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.interpreter import GridExecutor

from vllm_script.benchmarks.common import markdown, parser_of
from vllm_script.benchmarks.kernel.inputs import Shape, make_inputs
from vllm_script.pruning import MODES, PruningParams, run_modes
from vllm_script.pruning.params import GEOMETRIES
from vllm_script.pruning.task import Task

TOKENS, DIM, KEPT = 320, 64, 36
NO_LAUNCH = {
    *("view", "_unsafe_view", "reshape", "expand", "slice", "select", "t", "transpose", "permute"),
    *("unsqueeze", "squeeze", "as_strided", "alias", "detach", "split", "unbind", "diagonal"),
    *("empty", "empty_strided", "empty_like", "new_empty", "lift_fresh"),
}
"""Operators that make a view or allocate."""


def main() -> None:
    parser_of(__doc__).parse_args()
    shape = Shape(TOKENS, DIM, KEPT / TOKENS, KEPT, batch=1)
    inputs = make_inputs(shape, torch.device("cpu"), torch.bfloat16)
    rows = []
    for mode, its in MODES.items():
        for geometry in GEOMETRIES if "geometry" in its.reads else GEOMETRIES[:1]:
            relevance = inputs.relevance if its.reads_query else None
            params = PruningParams(geometry=geometry)
            with Launches() as launches:
                run_modes([Task(inputs.x, KEPT, relevance, mode, params, backend="triton")])
            kernels = ", ".join(f"{n} {name}" for name, n in sorted(launches.kernels.items()))
            counts = f"{launches.total}", f"{launches.operators}"
            rows.append([f"{mode}, {geometry}", *counts, kernels])
    print(markdown(["mode", "launches", "of PyTorch", "kernels"], rows))


class Launches(TorchDispatchMode):
    """Counts what is launched while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.kernels: Counter[str] = Counter()
        self._inside = False

    @property
    def total(self) -> int:
        """Kernels and operators together."""
        return self.operators + self.kernels.total()

    def __enter__(self) -> Launches:
        original, counter = GridExecutor.__call__, self

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            """Run a kernel, whose interpreter uses operators of its own."""
            counter.kernels[self.fn.__name__] += 1
            counter._inside = True
            try:
                return original(self, *args, **kwargs)
            finally:
                counter._inside = False

        self._original = original
        GridExecutor.__call__ = call
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        GridExecutor.__call__ = self._original

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += not self._inside and func.overloadpacket.__name__ not in NO_LAUNCH
        return func(*args, **(kwargs or {}))


if __name__ == "__main__":
    with torch.no_grad():
        main()
