"""What Triton would compile, told by Triton itself: no GPU, nothing is compiled or launched.

For processes in which Triton's interpreter is off. Triton binds the arguments of a launch and looks
for the variant that they need, as it does on a GPU; one that is not there is noted.
"""

import importlib
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

MODULES = [
    importlib.import_module(f"vllm_script.kernels.{name}")
    for name in ("gather", "greedy_map", "norms", "redundancy", "reduce_graph", "relevance")
]
"""Not import statements: the package's greedy_map is the function."""

WARM_UP = importlib.import_module("vllm_script.kernels.warm_up")


@contextmanager
def recorded(arch, num_multiprocessors=132):
    """Yield a dict of what a GPU of that architecture would compile within, by variant.

    All kernels launch, on tensors of the CPU, whose values are zeros where kernels would write.
    """
    variants = {}

    def note(kernel, key, signature, device, constexprs, options, attrs, warmup):
        launch = (kernel, signature, constexprs, attrs, options)
        variants.setdefault((kernel.__name__, key), launch)

    target = GPUTarget("cuda", arch, 32)
    absent = SimpleNamespace(
        get_current_device=lambda: arch,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: target,
    )
    active, empty = driver._active, torch.empty
    driver.set_active(absent)
    with (
        mock.patch.object(JITFunction, "_do_compile", note),
        mock.patch("torch.empty", torch.zeros),
        mock.patch.object(MODULES[1], "multiprocessors", lambda device: num_multiprocessors),
        mock.patch.object(WARM_UP, "multiprocessors", lambda device: num_multiprocessors),
    ):
        stack = [mock.patch.object(m, "use_triton", lambda *_: True) for m in [*MODULES, WARM_UP]]
        for each in stack:
            each.start()
        try:
            yield variants
        finally:
            for each in stack:
                each.stop()
            driver._active = active
    assert torch.empty is empty
