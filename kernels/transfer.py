"""Values that the host has and the device needs."""

from __future__ import annotations

import torch


def to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device; the host does not wait for the copy.

    A copy from memory that is not pinned would wait for all that the device has been given to do.
    """
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)
