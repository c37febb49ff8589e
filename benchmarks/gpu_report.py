"""All that only an NVIDIA GPU can show, run part by part, and a report of it to commit: `make gpu`.

    python benchmarks/gpu_report.py                         # each part ten minutes at most
    python benchmarks/gpu_report.py --only kernels          # one part
    python benchmarks/gpu_report.py --again tests-worker    # one that has passed, once more

The parts are the tests that need a GPU, the kernels under compute-sanitizer, servers that fail as
soon as they wait for the GPU or compile anything, times of the kernels, and servers under load
against stock vLLM. What a part prints is kept. One that has passed is not run again on the same GPU
with the same versions and sources; Ctrl-C loses the one that runs, and the same command goes on.
After each part the folder OUT/DATE-gpu-NAME is written anew, to be committed in benchmarks/results:
its README.md begins with the goals and whether they are met. Nothing is downloaded. Ends with an
error if a part failed or a goal was missed, and at once where there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_script.benchmarks.common import ending_well, parser_of, repeatable
from vllm_script.benchmarks.gpu.machine import NoGpu, this_machine
from vllm_script.benchmarks.gpu.parts import all_parts
from vllm_script.benchmarks.gpu.session import Session

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    args = parse_arguments()
    with ending_well(NoGpu, OSError):
        machine = this_machine(ROOT)
        out = args.out.resolve()
        parts = all_parts(out / machine.key, ROOT)
        session = Session(machine, ROOT, out, parts, repeatable()["command"])
        well = session.run(args.only, args.again)
    sys.exit(not well)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; without --only and --again all parts are asked for."""
    parser = parser_of(__doc__)
    known = [part.name for part in all_parts(Path(), ROOT)]
    some: dict[str, Any] = {"nargs": "+", "choices": known, "metavar": "PART", "default": []}
    parser.add_argument("--only", help=f"run these alone, of {', '.join(known)}", **some)
    parser.add_argument("--again", help="run these alone, though they have passed", **some)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="folder of results")
    args = parser.parse_args(argv)
    if not args.only and not args.again:
        args.only = known
    return args


if __name__ == "__main__":
    main()
