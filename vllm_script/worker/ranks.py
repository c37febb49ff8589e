"""Whether tensor-parallel ranks keep the same tokens.

Each rank selects for itself, from features that are equal on all of them. If ever they were not,
ranks would work on different prompts, and answers be garbage without an error. So they compare what
they kept of the first item, and what code they select with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from vllm.distributed import get_tp_group

from ..kernels import ops_in_torch
from ..kernels.greedy_map.cluster import has_clusters


def check_ranks_agree(kept: torch.Tensor) -> None:
    """Raise RuntimeError, on every rank, unless all ranks kept the same, by the same code.

    It waits for all of them.

    Args:
        kept: [K] int64, the rows that this rank keeps of an item.
    """
    group = get_tp_group()
    if group.world_size == 1:
        return
    checksum = hashlib.blake2b(kept.cpu().numpy().tobytes(), digest_size=8).hexdigest()
    found: list[tuple[str, list[str]]] = [("", [])] * group.world_size
    own = checksum, _code(kept.device)
    torch.distributed.all_gather_object(found, own, group=group.cpu_group)
    checksums, codes = zip(*found, strict=True)
    if others := _that_differ(checksums):
        raise RuntimeError(
            f"of {group.world_size} tensor-parallel ranks, {others} kept other visual tokens than "
            f"rank 0 of the same item (checksums {', '.join(checksums)}): answers would be wrong; "
            "use GPUs of one kind, or --tensor-parallel-size 1"
        )
    if others := _that_differ(codes):
        raise RuntimeError(
            f"of {group.world_size} tensor-parallel ranks, {others} select by other code than rank "
            f"0, since kernels do not run on some GPUs ({list(codes)}): "
            "answers could be wrong; the log of each rank says why, or use --script-kernels torch"
        )


def _code(device: torch.device) -> list[str]:
    """What is done by other code on a device than by the kernels that are fastest elsewhere."""
    in_torch = [f"{op} in PyTorch" for op in ops_in_torch(device)]
    return in_torch if has_clusters(device) else [*in_torch, "greedy_map without clusters"]


def _that_differ(found: Sequence[object]) -> str:
    """The ranks that found something else than rank 0, as words."""
    return ", ".join(str(rank) for rank, each in enumerate(found) if each != found[0])
