"""A GPU that is not there: tensors that say `cuda` and compute on the CPU, and count every wait.

On a GPU the host waits where it reads a value or the size of a result, or copies to or from memory
that is not pinned. Here every operation of torch passes `PretendGpu`, which knows those that wait.
"""

from __future__ import annotations

import types
import weakref
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA, META = torch.device("cuda:0"), torch.device("meta")
"""What a tensor of the pretended GPU says, and what torch takes it for: a device without memory,
for a torch without CUDA can do nothing at all with a tensor of that."""

READS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "allclose"),
    *("nonzero", "nonzero_numpy", "argwhere", "masked_select", "bincount"),
    *("unique_dim", "unique_consecutive", "unique_dim_consecutive", "_unique", "_unique2"),
}
"""Operations whose result, or the size of it, the host reads."""

MASKED = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that look for what is set where an index is a mask."""

COPIES = {"_to_copy", "copy_", "copy"}


class OnGpu(torch.Tensor):
    """A tensor of the pretended GPU; `held` are its values on the CPU."""

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnGpu:
        own = torch.Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=META,
        )
        own.held = real
        return own

    def __repr__(self) -> str:
        return f"OnGpu({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, classes, args=(), kwargs=None):
        raise AssertionError(f"{func} on the pretended GPU, outside of it")


class PretendGpu(TorchDispatchMode):
    """Runs everything that says `cuda` on the CPU; `waits` names what a host would wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._pinned = weakref.WeakSet()

    def __torch_dispatch__(self, func, classes, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if name == "is_pinned":
            return args[0].untyped_storage() in self._pinned
        if name in ("_pin_memory", "pin_memory"):
            copy = args[0].clone()
            self._pinned.add(copy.untyped_storage())
            return copy
        asked = kwargs.get("device")
        on_gpu = [isinstance(each, OnGpu) for each in given]
        to_gpu = any(on_gpu) if asked is None else torch.device(asked) == META
        if name.startswith("copy"):
            to_gpu = on_gpu[0]
        if any(on_gpu):
            self._look(name, func, args, kwargs, given, to_gpu)
        elif name in COPIES and to_gpu:
            self._look_at_copy(name, given[-1], kwargs, args)
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        made = {id(each.held): each for each in given if isinstance(each, OnGpu)}
        real_args, real_kwargs = tree_map(_real, (args, kwargs))
        results = func(*real_args, **real_kwargs)
        if not to_gpu:
            return results

        def wrap(result):
            if not isinstance(result, torch.Tensor):
                return result
            return made[id(result)] if id(result) in made else OnGpu(result)

        return tree_map(wrap, results)

    def _look(self, name, func, args, kwargs, given, to_gpu) -> None:
        """Note what waits of an operation with tensors of the GPU."""
        if name in READS:
            self.waits.append(name)
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.waits.append("repeat_interleave without output_size")
        elif name in COPIES:
            if not to_gpu:
                self.waits.append(f"{name} to the host")
            elif not isinstance(given[-1], OnGpu):
                self._look_at_copy(name, given[-1], kwargs, args)
        else:
            hosts = [each for each in given if not isinstance(each, OnGpu)]
            if any(each.dim() > 0 for each in hosts):
                self.waits.append(f"{name} with a tensor of the host")
            if name in MASKED:
                indices = [each for each in args[1] if each is not None]
                if any(each.dtype in (torch.bool, torch.uint8) for each in indices):
                    self.waits.append(f"{name} by a mask")
                if hosts:
                    self.waits.append(f"{name} with a value of the host")

    def _look_at_copy(self, name, source, kwargs, args) -> None:
        """Note a copy from the host, unless it is from pinned memory and need not be awaited."""
        awaited = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)))
        if awaited or source.untyped_storage() not in self._pinned:
            self.waits.append(f"{name} from the host")

    @contextmanager
    def running(self):
        """Within it tensors may be on the pretended GPU, and kernels run in the interpreter."""
        from triton.runtime.interpreter import InterpretedFunction

        interpret = InterpretedFunction.run

        def run(kernel, *args, **kwargs):
            with _disable_current_modes():
                args, kwargs = tree_map(_real, (args, kwargs))
                return interpret(kernel, *args, **kwargs)

        properties = types.SimpleNamespace(
            multi_processor_count=4, major=8, minor=0, shared_memory_per_block_optin=163 << 10
        )
        with (
            mock.patch.object(InterpretedFunction, "run", run),
            mock.patch("torch.cuda.get_device_properties", lambda device: properties),
            mock.patch("torch.cuda.device", nullcontext),
            mock.patch("torch.cuda.Event", _Event),
            self,
            _SayCuda(),
            torch.no_grad(),
        ):
            yield self


class _SayCuda(TorchFunctionMode):
    """Has tensors of the pretended GPU say `cuda`, and takes that for it."""

    def __torch_function__(self, func, classes, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__ and isinstance(args[0], OnGpu):
            return CUDA
        if func == torch.Tensor.is_cuda.__get__:
            return isinstance(args[0], OnGpu)
        if func == torch.Tensor.tolist:
            return func(args[0].cpu())
        if func == torch.as_tensor and isinstance(args[0], torch.Tensor):
            return args[0].to(_meta(kwargs["device"]))
        if func in (torch.tensor, torch.as_tensor) and "device" in kwargs:
            return func(*args, **kwargs | {"device": "cpu"}).to(_meta(kwargs["device"]))
        args, kwargs = tree_map(_meta, (args, kwargs))
        return func(*args, **kwargs)


def _meta(value):
    """The device that stands for CUDA, where a value is that."""
    is_cuda = isinstance(value, torch.device) and value.type == "cuda"
    return META if is_cuda or (isinstance(value, str) and value in ("cuda", "cuda:0")) else value


class _Event:
    """A CUDA event, of a GPU that is never behind."""

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: object) -> float:
        return 1.0


def to_gpu(real: torch.Tensor) -> OnGpu:
    """A tensor with these values that was on the pretended GPU before."""
    return OnGpu(real)


def to_host(x: torch.Tensor) -> torch.Tensor:
    """The values of a tensor of either device."""
    return _real(x)


def _real(value):
    return value.held if isinstance(value, OnGpu) else value
