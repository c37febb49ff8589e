"""Fill up evenly spaced patches with the ones that these stand for least.

For thinning inside a vision tower, where a question is not known and an even spacing alone would
lose what is small. One product of matrices and one sort, and no loop over picks.
"""

from __future__ import annotations

import math

import torch

from vllm_script.kernels import inverse_norms, unit_rows


def add_novel(states: torch.Tensor, spaced: torch.Tensor, count: int) -> torch.Tensor:
    """Return the patches that stay: the spaced ones, and the ones least like any of these.

    A patch is as novel as its largest cosine with a spaced one is small. Of equally novel ones the
    first in reading order stays.

    Args:
        states: [N, D] of one picture, any float dtype.
        spaced: [S] int64, distinct indices of patches that stay anyway, S >= 1.
        count: patches that stay, in [S, N].

    Returns:
        indices [count] int64, ascending, on the states' device.
    """
    unit = unit_rows(states, inverse_norms(states))
    likeness = (unit @ unit[spaced].T).amax(1)
    likeness[spaced] = -math.inf
    return likeness.argsort(stable=True)[:count].sort().values
