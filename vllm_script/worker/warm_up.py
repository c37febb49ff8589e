"""Compile the kernels when the model is built, before anybody waits for an answer.

At that point, because it comes in every way of starting: vLLM's own warm-up of kernels is left out
with --enforce-eager, its memory profile with --skip-mm-profiling, and then it is of one modality.
"""

from __future__ import annotations

import logging
import time

import torch

from ..kernels import Backend
from ..kernels.warm_up import kernels_run, warm_up
from ..relevance.clip import ClipRelevance

logger = logging.getLogger("vllm.script")


def compile_kernels(
    hidden_size: int,
    feature_width: int,
    clip: ClipRelevance | None,
    dtype: torch.dtype,
    device: torch.device,
    backend: Backend,
    tower_width: int | None = None,
) -> None:
    """Run every variant of the kernels that a request can reach; nothing where none is compiled.

    Args:
        hidden_size: values of a visual token that selections read.
        feature_width: values of a visual token as the model's projector returns it.
        clip: what scores patches for relevance `clip`; None where it is not loaded.
        dtype, device: of the model.
        backend: of the operations of kernels/.
        tower_width: values of a state in the vision tower, where it is thinned.
    """
    if not are_compiled(backend, device):
        return
    relevance_widths = [hidden_size]  # of relevance `embedding`, which any request can ask for
    if clip is not None:
        relevance_widths.append(clip.visual_projection.out_features)
    logger.info("Script compiles its kernels, a minute at most; they are kept on disk")
    started = time.perf_counter()
    others = () if tower_width is None else (tower_width,)
    warm_up(hidden_size, feature_width, relevance_widths, dtype, device, backend, others)
    logger.info("Script's kernels are ready after %.1f seconds", time.perf_counter() - started)


def are_compiled(backend: Backend, device: torch.device) -> bool:
    """Whether kernels are compiled and run; not so in plain PyTorch and in Triton's interpreter."""
    return backend != "torch" and kernels_run(device)
