"""Whether tensor-parallel ranks keep the same tokens.

Each rank selects for itself, from features that are equal on all of them. If ever they were not,
ranks would work on different prompts, and answers be garbage without an error. So they compare what
they kept of the first item, and what code they select with.
"""

from __future__ import annotations

import hashlib

import torch
from vllm.distributed import get_tp_group

from ..kernels import ops_in_torch


def check_ranks_agree(kept: torch.Tensor) -> None:
    """Raise RuntimeError, on every rank, unless all ranks kept the same; waits for all of them.

    Args:
        kept: [K] int64, the rows that this rank keeps of an item.
    """
    group = get_tp_group()
    if group.world_size == 1:
        return
    checksum = hashlib.blake2b(kept.cpu().numpy().tobytes(), digest_size=8).hexdigest()
    if without_kernels := ops_in_torch(kept.device):
        checksum += f" without kernels of {' and '.join(without_kernels)}"
    checksums: list[str] = [""] * group.world_size
    torch.distributed.all_gather_object(checksums, checksum, group=group.cpu_group)
    others = [str(rank) for rank, each in enumerate(checksums) if each != checksums[0]]
    if others:
        raise RuntimeError(
            f"of {group.world_size} tensor-parallel ranks, {', '.join(others)} kept other visual "
            f"tokens than rank 0 of the same item (checksums {', '.join(checksums)}): answers "
            "would be wrong; use GPUs of one kind, or --tensor-parallel-size 1"
        )
