"""Greedy MAP of an image by one cluster of programs, on GPUs that have clusters.

Programs of a cluster write into each other's shared memory. A step's exchange through global memory
takes most of a microsecond on an H200, and this one a fifth of that; see the README of kernels/.
Triton knows no such programs, so this kernel is CUDA C++: select.cu is the algorithm, device.cuh
what it asks of a GPU. NVRTC, which PyTorch brings, compiles both when a process first selects.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.resources
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..._launch import shared_bytes
from ...reduce_graph import Pool

logger = logging.getLogger("vllm.script")

CAPABILITY = 9
"""Major compute capability that has clusters."""

CLUSTERS = 4, 8, 16
"""Programs of an image, in classes: with few, many images are selected beside each other."""

WARPS = 8
"""Of a program."""


class Split(NamedTuple):
    """How a warp holds its tokens."""

    tokens: int
    """Most of them."""
    blocks: int
    """Times 32: columns of the factor in registers; the others are in shared memory."""

    def shared_values(self, budget: int) -> int:
        """Values of the factor that a program has in shared memory."""
        return WARPS * self.tokens * max(0, _padded(budget) - 32 * self.blocks)


FEW, MANY = Split(12, 11), Split(24, 6)
"""132 and 144 values in the registers of a thread, of 255."""

SHARED_BYTES = 227 * 1024
"""That a program can have."""


def cluster_of(length: int, budget: int) -> int | None:
    """Programs of the cluster that selects in an image of that many tokens, whatever its pool has;
    None: there is no room in any."""
    for cluster in CLUSTERS:
        has_room = length <= cluster * WARPS * MANY.tokens
        if has_room and _shared_bytes(cluster, length, budget) <= SHARED_BYTES:
            return cluster
    return None


def has_clusters(device: torch.device) -> bool:
    """Whether clusters can select on that device; the first call for it compiles."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    if torch.cuda.get_device_capability(device)[0] < CAPABILITY:
        return False
    if shared_bytes(device) < SHARED_BYTES:  # consumer cards of a later capability
        return False
    return all(_kernel(device, cluster) is not None for cluster in CLUSTERS)


def select_cluster(
    cluster: int,
    similarity: torch.Tensor,
    relevance: torch.Tensor | None,
    plan: torch.Tensor,
    lengths: Sequence[int],
    budgets: Sequence[int],
    pool: Pool | None,
    num_rows: int,
    picks: torch.Tensor,
    residual_floor: float,
) -> None:
    """Pick tokens of images that `cluster_of` gives the same cluster, see `greedy_map`.

    Args:
        cluster: its programs.
        similarity: float32, all triangles.
        relevance: [num_rows] float32, or None.
        plan: [6, images] int64, as the kernel in select.cu has it.
        lengths, budgets: of these images.
        pool: pick among these alone; None: among all.
        num_rows: of all images.
        picks: int64, written where the plan says.
    """
    stride = _padded(max(budgets))
    factor = torch.full((num_rows, stride), -1, dtype=torch.int32, device=picks.device)
    tensors = (similarity, relevance, plan, *(pool or (None, None)), factor)
    pointers = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    arguments = (*pointers, stride, picks.data_ptr(), residual_floor, len(lengths))
    kernel = _kernel(picks.device, cluster)
    assert kernel is not None, "ask has_clusters first"
    sizes = zip(lengths, budgets, strict=True)
    kernel(len(lengths), max(_shared_bytes(cluster, *each) for each in sizes), arguments)


def _padded(budget: int) -> int:
    """Columns of the factor, in whole blocks of 32."""
    return -(-budget // 32) * 32


def _shared_bytes(cluster: int, length: int, budget: int) -> int:
    """Of a program: posts and mailboxes, the pick's row, and what of the factor is there."""
    splits = [FEW] if length <= cluster * WARPS * FEW.tokens else [FEW, MANY]
    in_shared = max(split.shared_values(budget) for split in splits)
    row = max(32 * FEW.blocks, _padded(budget))
    return 2 * 16 * cluster * WARPS + 16 + 2 * 4 * WARPS + 4 * (row + in_shared)


class _Kernel:
    """The compiled kernel for clusters of a size, on a device.

    Raises:
        ImportError: there is no `cuda.bindings`, or no NVRTC.
        RuntimeError: the kernel does not build, or a cluster finds no place on the device.
    """

    KINDS = (
        *(ctypes.c_void_p,) * 6,
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_float, ctypes.c_int),
    )
    """Of its arguments."""

    def __init__(self, device: torch.device, cluster: int) -> None:
        from cuda.bindings import driver

        self._driver, self._device, self._cluster = driver, device, cluster
        code = compiled(torch.cuda.get_device_capability(device), cluster)
        with torch.cuda.device(device):
            torch.cuda.current_stream()  # PyTorch's context is the current one from here on
            self._load(code)
            self._try()

    def __call__(self, num_images: int, num_bytes: int, arguments: tuple[Any, ...]) -> None:
        """Launch it.

        Args:
            num_bytes: of shared memory, for a program.
            arguments: those of the kernel in select.cu, pointers as numbers.
        """
        sizes = (self._cluster * num_images, 1, 1, 32 * WARPS, 1, 1, num_bytes)
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream().cuda_stream
            launched = self._driver.cuLaunchKernel(
                self._function, *sizes, stream, (arguments, self.KINDS), 0
            )
        _checked(launched)

    def _load(self, code: bytes) -> None:
        driver, cluster = self._driver, self._cluster
        module = _checked(driver.cuModuleLoadData(code))
        self._function = _checked(driver.cuModuleGetFunction(module, b"select_cluster"))
        attribute = driver.CUfunction_attribute
        for name, value in (
            (attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, SHARED_BYTES),
            (attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
        ):
            _checked(driver.cuFuncSetAttribute(self._function, name, value))
        if self._most_clusters() == 0:
            raise RuntimeError(f"there is no room for {cluster} programs beside each other")

    def _try(self) -> None:
        """Launch it once, for an image of one token: that it cannot be launched shows here."""
        plan = torch.tensor([[0], [0], [1], [0], [1], [0]], device=self._device)
        cosine, factor = torch.ones(2, 1, device=self._device)
        pick = torch.empty(1, dtype=torch.int64, device=self._device)
        pointers = (cosine.data_ptr(), 0, plan.data_ptr(), 0, 0, factor.data_ptr())
        arguments = (*pointers, 1, pick.data_ptr(), 0.0, 1)
        self(1, _shared_bytes(self._cluster, 1, 1), arguments)

    def _most_clusters(self) -> int:
        """Clusters that the device has room for at once."""
        config = self._driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = self._cluster, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * WARPS, 1, 1
        config.sharedMemBytes = SHARED_BYTES
        cluster = self._driver.CUlaunchAttribute()
        cluster.id = self._driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        size = cluster.value.clusterDim
        size.x, size.y, size.z = self._cluster, 1, 1
        config.attrs, config.numAttrs = [cluster], 1
        most: int = _checked(self._driver.cuOccupancyMaxActiveClusters(self._function, config))
        return most


@functools.cache
def _kernel(device: torch.device, cluster: int) -> _Kernel | None:
    """The kernel on a device; None where there is none, which the log says."""
    try:
        return _Kernel(device, cluster)
    except Exception as error:  # NVRTC, the driver and what finds them raise whatever they like
        logger.warning(
            "Script selects without clusters of %d on %s, which takes longer for one image: %s",
            *(cluster, device, error),
        )
        return None


def source() -> str:
    """What NVRTC compiles."""
    folder = importlib.resources.files(__package__)
    return "".join((folder / name).read_text("utf-8") for name in ("device.cuh", "select.cu"))


def constants(cluster: int) -> dict[str, int]:
    """What select.cu is to be given."""
    return {
        **{"CLUSTER": cluster, "WARPS": WARPS},
        **{"FEW": FEW.tokens, "FEW_BLOCKS": FEW.blocks},
        **{"MANY": MANY.tokens, "MANY_BLOCKS": MANY.blocks},
    }


def compiled(capability: tuple[int, int], cluster: int) -> bytes:
    """Machine code for a compute capability, and clusters of a size; no GPU is needed.

    Raises:
        ImportError: there is no `cuda.bindings`, or no NVRTC.
        RuntimeError: it does not compile; the message has what the compiler says.
    """
    from cuda.bindings import nvrtc

    program = _checked(nvrtc.nvrtcCreateProgram(source().encode(), b"select.cu", 0, [], []))
    options = [f"--gpu-architecture=sm_{capability[0]}{capability[1]}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in constants(cluster).items()]
    encoded = [option.encode() for option in options]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytes(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"select.cu does not compile: {log.decode().strip()}")
    code = bytes(_checked(nvrtc.nvrtcGetCUBINSize(program)))
    _checked(nvrtc.nvrtcGetCUBIN(program, code))
    return code


def _checked(answer: tuple[Any, ...]) -> Any:
    """What a call of CUDA returned.

    Raises:
        RuntimeError: it failed.
    """
    result, *values = answer
    if result != 0:
        raise RuntimeError(f"CUDA answers {result!r}")
    return values[0] if values else None
