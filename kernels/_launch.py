"""Launch kernels, and what happens where that is refused.

An op whose kernels cannot be built or launched runs in plain PyTorch, on that device, and the log
says so once: a server that starts on an odd machine is slower there, and not down. With backend
"triton" it is an error, as it is where the op has run before: then something else is wrong, and
what is selected must not change under way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from ._triton import Backend, is_interpreted, jit, tl, use_triton

T = TypeVar("T")

# What the driver says of a launch whose programs do not fit beside each other, or may not wait.
REFUSALS = ("cooperative launch", "not supported")

logger = logging.getLogger("vllm.script")

# Multiprocessors that a launch of waiting programs leaves to kernels of other streams. One that
# communicates may not end before another GPU has gone on; ours must not wait for its place.
RESERVED_MULTIPROCESSORS = 8

# Programs of such a launch, and shared memory of one, where there is no GPU: in the interpreter.
INTERPRETED_PROGRAMS = 1
INTERPRETED_SHARED_BYTES = 99 * 1024

_in_torch: set[tuple[str, torch.device]] = set()
"""Ops that run in PyTorch on a device, since their kernels do not."""

_launched: set[tuple[str, torch.device]] = set()
"""Ops whose kernels have been launched on a device."""

_by_phase: set[torch.device] = set()
"""Devices whose driver refuses programs that wait for each other."""


def run_op(
    op: str,
    backend: Backend,
    x: torch.Tensor,
    with_triton: Callable[[], T],
    with_torch: Callable[[], T],
) -> T:
    """Run an op as the backend says, on the device of x.

    Args:
        op: its name, for the log.

    Raises:
        ValueError, ImportError: as `use_triton`.
    """
    here = (op, x.device)
    if not use_triton(backend, x) or (backend == "auto" and here in _in_torch):
        return with_torch()
    try:
        result = with_triton()
        _launched.add(here)
        return result
    except Exception as error:  # Triton, its compilers and the driver raise whatever they like
        if backend == "triton" or here in _launched or "out of memory" in str(error):
            raise
        _in_torch.add(here)
        logger.warning(
            "Script's %s runs in PyTorch on %s, which is slower: its kernels do not build or "
            "launch there (%s)",
            *(op, x.device, _first_line(error)),
        )
        return with_torch()


def ops_in_torch(device: torch.device) -> list[str]:
    """Names of the ops that run in PyTorch on a device, since their kernels do not."""
    return sorted(op for op, where in _in_torch if where == device)


def launch(kernel: Any, grid: Sequence[int], device: torch.device, /, **arguments: Any) -> None:
    """Launch a kernel on a device, which need not be the current one.

    Products and sums are fused: Triton 3.10 does not do so by default, and would round otherwise.
    """
    arguments["enable_fp_fusion"] = True
    if device.type != "cuda":
        kernel[tuple(grid)](**arguments)
        return
    with torch.cuda.device(device):
        kernel[tuple(grid)](**arguments)


def launch_phases(
    kernel: Any, num_programs: int, num_phases: int, device: torch.device, /, **arguments: Any
) -> None:
    """Launch a kernel whose programs wait for each other between phases.

    Such a kernel is a loop over phases, `first_phase` and on. What a program reads in one phase
    other programs wrote in phases before, never in the same one. On a GPU it is one cooperative
    launch, which fails unless all programs are on the chip at once; TOGETHER says that programs
    wait between phases. In the interpreter, which runs programs one after the other, if there are
    several, and where the driver refuses such a launch, every phase is a launch of its own, and
    everything that outlives a phase is in memory: the same code, without the waiting.
    """
    once: dict[str, Any] = {"first_phase": 0, "TOGETHER": True}
    if is_interpreted():
        if num_programs == 1:
            launch(kernel, (1,), device, **arguments, **once)
            return
    elif device not in _by_phase:
        try:
            once["launch_cooperative_grid"] = True
            launch(kernel, (num_programs,), device, **arguments, **once)
            return
        except RuntimeError as error:
            if not any(words in str(error) for words in REFUSALS):
                raise
            _by_phase.add(device)
            logger.warning(
                "Script launches its kernels phase by phase on %s, which takes milliseconds more: "
                "the driver refuses programs that wait for each other (%s)",
                *(device, _first_line(error)),
            )
    for phase in range(num_phases):
        launch(kernel, (num_programs,), device, **arguments, first_phase=phase, TOGETHER=False)


def shared_bytes(device: torch.device) -> int:
    """Shared memory that a program can have."""
    if device.type != "cuda":
        return INTERPRETED_SHARED_BYTES
    properties: Any = torch.cuda.get_device_properties(device)
    most: int = properties.shared_memory_per_block_optin
    return most


def num_waiting_programs(device: torch.device) -> int:
    """Most programs of a launch that wait for each other: one a multiprocessor, which it fills."""
    if device.type != "cuda":
        return INTERPRETED_PROGRAMS
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count - min(RESERVED_MULTIPROCESSORS, count // 8)


@jit
def member_of(slot, num_owners):
    """Number of this program among those of an image, and the slot after them.

    Images get programs in their order, from slot 0 again where too few are left: those between the
    two run beside each other. A number outside [0, num_owners) is of a program of another image.
    """
    slot = tl.where(slot + num_owners > tl.num_programs(0), 0, slot)
    return tl.program_id(0) - slot, slot + num_owners


@jit
def grid_barrier(arrivals_ptr, num_arrivals):
    """Wait until that many programs have arrived since arrivals was 0, and see what they stored.

    Thread 0 does the atomics; the barriers extend its release and acquire to the others.
    """
    arrive(arrivals_ptr)
    wait(arrivals_ptr, num_arrivals)


@jit
def arrive(arrivals_ptr):
    """Say that this program has come here, and release what its threads stored before."""
    tl.debug_barrier()
    tl.atomic_add(arrivals_ptr, 1, sem="release", scope="gpu")


@jit
def wait(arrivals_ptr, num_arrivals):
    """Wait for that many arrivals, and acquire what those programs stored before they came."""
    # Triton makes a plain load of an atomic that adds 0, so waiting programs do not contend.
    while tl.atomic_add(arrivals_ptr, 0, sem="acquire", scope="gpu") < num_arrivals:
        pass
    tl.debug_barrier()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
