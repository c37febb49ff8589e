"""What Triton would compile, told by Triton itself: no GPU, nothing is compiled or launched.

For processes in which Triton's interpreter is off. Triton binds the arguments of a launch and looks
for the variant that they need, as it does on a GPU; one that is not there is noted.
"""

import importlib
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

SHARED_LIMIT = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB of shared memory that a program can have, by compute capability."""

WITH_WAITING_PROGRAMS = "farthest_first", "greedy_cover", "greedy_map", "reduce_graph"

MODULES = {
    name: importlib.import_module(f"vllm_script.kernels.{name}")
    for name in ("_launch", *WITH_WAITING_PROGRAMS, "similarity", "warm_up")
}
"""Not import statements: the package's greedy_map is the function."""

WARM_UP = MODULES["warm_up"]

MOST_FILLED = 2**20
"""Values of a new tensor that are zeros here; larger ones hold what no one but kernels reads."""


@contextmanager
def recorded(arch, num_multiprocessors=132):
    """Yield a dict of what a GPU of that architecture would compile within, by variant.

    Kernels are launched on tensors of the CPU, and what they would write stays zero.
    """
    variants, new = {}, torch.empty

    def note(kernel, key, signature, device, constexprs, options, attrs, warmup):
        launch = (kernel, signature, constexprs, attrs, options)
        variants.setdefault((kernel.__name__, key), launch)

    def zeros(*shape, **options):
        made = new(*shape, **options)
        return made if made.numel() > MOST_FILLED else made.zero_()

    target = GPUTarget("cuda", arch, 32)
    gpu = SimpleNamespace(
        get_current_device=lambda: arch,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: target,
    )
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(driver, "_active", gpu))
        stack.enter_context(mock.patch.object(JITFunction, "_do_compile", note))
        stack.enter_context(mock.patch("torch.empty", zeros))
        stack.enter_context(mock.patch.object(MODULES["_launch"], "use_triton", lambda *_: True))
        for name in *WITH_WAITING_PROGRAMS, "warm_up":
            count = mock.patch.object(
                MODULES[name], "num_waiting_programs", lambda _: num_multiprocessors
            )
            stack.enter_context(count)
        similarity, limit = MODULES["similarity"], SHARED_LIMIT[arch] * 1024
        stack.enter_context(mock.patch.object(similarity, "shared_bytes", lambda _: limit))
        yield variants
