"""Kernels whose programs wait for each other, and how they run where they cannot.

Such a kernel is a loop over phases, `first_phase` and on. What a program reads in one phase other
programs wrote in the phases before, never in the same one. On a GPU it is one cooperative launch,
which fails unless all programs are on the chip at once, and TOGETHER says that the programs must
meet between phases. In the interpreter, which runs programs one after the other, every phase is a
launch of its own and everything that outlives a phase is in memory: the same code, without the
meeting.
"""

from __future__ import annotations

from typing import Any

from ._triton import is_interpreted, jit, tl


def run_phases(
    kernel: Any,
    num_programs: int,
    num_phases: int,
    *arguments: Any,
    cooperative: bool = True,
    **constants: Any,
) -> None:
    """Run a kernel whose last argument before the constants is `first_phase`.

    cooperative: False where no program waits for another, so that there may be any number.
    """
    if not is_interpreted():
        kernel[(num_programs,)](
            *arguments, 0, TOGETHER=True, launch_cooperative_grid=cooperative, **constants
        )
        return
    for phase in range(num_phases):
        kernel[(num_programs,)](*arguments, phase, TOGETHER=False, **constants)


@jit
def meet(arrivals_ptr, num_arrivals):
    """Wait until that many programs have arrived since arrivals was 0, and see what they stored.

    Thread 0 does the atomics; the barriers extend its release and acquire to the others.
    """
    tl.debug_barrier()
    arrived = tl.atomic_add(arrivals_ptr, 1, sem="acq_rel", scope="gpu") + 1
    while arrived < num_arrivals:
        arrived = tl.atomic_add(arrivals_ptr, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()
