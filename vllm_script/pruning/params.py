"""The parameters of the modes. They are settings of the operator too: config.py has the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..setting import Choice, Number, Switch, setting, settings_of

GEOMETRIES = ("raw", "centered")


@dataclass(frozen=True)
class PruningParams:
    """Parameters of all modes; each mode reads the ones that MODES lists for it."""

    # The paper has tau 0.2, absolute, and gamma 1. How alike real tokens are differs by tower.
    tau: float = setting(
        0.1,
        Number(-1, 1),
        "The cosine similarity from which on two tokens are neighbours.",
    )
    tau_relative: bool = setting(
        True,
        Switch(),
        "Whether tau counts from the mean similarity of the graph, instead of from 0.",
    )
    gamma: float = setting(
        1.0,
        Number(0, 10),
        "The weight of how close a token's neighbours are, beside how many they are.",
    )
    pool_ratio: float = setting(
        0.25,
        Number(0, 1),
        "The part of the tokens beyond the budget that GSP leaves to be chosen from. With 0, mode "
        "gsp is GSP alone, unless its graph runs out of edges; with 1, nothing is thinned.",
    )
    seed: int = setting(
        0,
        Number(0, 2**32 - 1, integer=True),
        "The seed of the random choice.",
    )
    geometry: str = setting(
        "raw",
        Choice(GEOMETRIES),
        "The geometry that tokens are compared in. In raw it is their cosines; in centered it is "
        "those of what is left without the image's mean token, and a token counts for more the "
        "less it is like the image as a whole.",
        flag="--script-geometry GEOMETRY",
        per_request=True,
    )

    def __post_init__(self) -> None:
        for each in settings_of(PruningParams):
            each.check(getattr(self, each.key))

    @property
    def graph(self) -> dict[str, Any]:
        """The parameters of GSP's graph, as keyword arguments of `kernels.reduce_graph`."""
        return {"tau": self.tau, "tau_relative": self.tau_relative, "gamma": self.gamma}
