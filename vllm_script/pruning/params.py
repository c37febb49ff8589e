"""The parameters of the modes, which are settings of the operator too (config.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PruningParams:
    """Parameters of all modes; each mode reads the ones that MODES lists for it."""

    tau: float = 0.1
    """Similarity at which two tokens are neighbours (script, gsp), in [-1, 1]. The paper has 0.2,
    absolute, where every real token neighbours every other."""

    tau_relative: bool = True
    """Count tau from the mean similarity of the graph instead of from 0."""

    gamma: float = 1.0
    """How much close neighbours outweigh many (script, gsp), in [0, 10]. The paper has 1."""

    pool_ratio: float = 0.5
    """Part of the tokens GSP leaves to QCSP (script), in [0, 1]; never less than the budget."""

    seed: int = 0
    """Seed of the random mode, in [0, 2**32 - 1]."""

    def __post_init__(self) -> None:
        _check_number("tau", self.tau, -1, 1)
        if not isinstance(self.tau_relative, bool):
            raise ValueError(f"tau_relative must be true or false, got {self.tau_relative!r}")
        _check_number("gamma", self.gamma, 0, 10)
        _check_number("pool_ratio", self.pool_ratio, 0, 1)
        _check_number("seed", self.seed, 0, 2**32 - 1, integer=True)

    @property
    def graph(self) -> dict[str, Any]:
        """The parameters of GSP's graph, as keyword arguments of `kernels.reduce_graph`."""
        return {"tau": self.tau, "tau_relative": self.tau_relative, "gamma": self.gamma}


def _check_number(
    name: str, value: float, low: float, high: float, *, integer: bool = False
) -> None:
    kind, types = ("an integer", int) if integer else ("a number", (int, float))
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
        raise ValueError(f"{name} must be {kind} in [{low}, {high}], got {value!r}")
