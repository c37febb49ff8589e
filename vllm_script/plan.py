"""What is done to one image or video: the plan, its bytes, and the names that an item is cached by.

The bytes of a plan are hashed into the item's identifier, which keys every cache of vLLM's, and
sent to the worker, which reads what to do from nothing else: what is cached under an identifier is
what the plan said. Equal plans share, different plans never do, and an image that is left whole
keeps the identifier that stock vLLM gives it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import NamedTuple

from .budget import num_kept
from .config import ScriptConfig
from .pruning import MODES, PruningParams

Query = tuple[tuple[tuple[int, ...], ...], ...]
"""Token ids of questions: of each one, those of its windows, which are scored one by one."""

# Raise it whenever the same plan would select other tokens than before.
ALGORITHM_VERSION = 6


class TowerThinning(NamedTuple):
    """How the vision tower is thinned: patches are dropped after an early block of it."""

    keep: float
    """Share of the patches of a tile or frame that stays, below 1."""
    layer: float
    """Share of the tower's blocks that see all patches."""


@dataclass(frozen=True)
class Plan:
    """The effective settings for one image: only what its selection depends on."""

    keep_ratio: float | None
    visual_token_budget: int | None
    mode: str
    relevance: str
    """Source of relevance; `none` where the mode does not read any or there is no query."""
    clip_digest: str | None
    """Digest of the content of the CLIP checkpoint that scores, where relevance is `clip`."""
    query: Query
    """The questions; what one of them finds relevant is."""
    params: PruningParams
    """Parameters that the mode reads; the others at their defaults."""
    tower: TowerThinning | None = None
    """How the vision tower is thinned; None, and then not among the bytes, where it is whole. An
    item of which more is kept than a thinned tower leaves gets the whole one."""
    explain_id: str | None = None
    """Random name under which the worker shows the selection, see explain/. Normally None:
    it is then not among the bytes."""

    def num_kept(self, num_placeholders: int, num_patches: int, minimum: int = 1) -> int | None:
        """Return how many visual tokens stay of an item, None for all: see `budget.num_kept`.

        The arguments are a layout's `counts`.
        """
        return num_kept(
            num_placeholders,
            num_patches,
            minimum,
            keep_ratio=self.keep_ratio,
            visual_token_budget=self.visual_token_budget,
        )

    def encode(self) -> bytes:
        """Canonical bytes: equal for equal plans, different for different ones."""
        values = asdict(self) | {"version": ALGORITHM_VERSION}
        for name in ("tower", "explain_id"):
            if values[name] is None:
                del values[name]
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Plan:
        values = json.loads(data)
        version = values.pop("version")
        assert version == ALGORITHM_VERSION, f"plan version {version}, not {ALGORITHM_VERSION}"
        values["query"] = tuple(tuple(map(tuple, windows)) for windows in values["query"])
        values["params"] = PruningParams(**values["params"])
        if "tower" in values:
            values["tower"] = TowerThinning(*values["tower"])
        return cls(**values)


def reads_query(config: ScriptConfig) -> bool:
    """Whether a selection with these settings depends on the query."""
    return MODES[config.mode].reads_query and config.relevance != "none"


def make_plan(config: ScriptConfig, query: Query) -> Plan:
    """The plan for an image that is conditioned on these questions, if there are any."""
    conditioned = reads_query(config) and len(query) > 0
    params = {name: getattr(config.params, name) for name in MODES[config.mode].reads}
    return Plan(
        keep_ratio=None if config.keep_ratio is None else float(config.keep_ratio),
        visual_token_budget=config.visual_token_budget,
        mode=config.mode,
        relevance=config.relevance if conditioned else "none",
        clip_digest=config.clip_digest if conditioned and config.relevance == "clip" else None,
        query=query if conditioned else (),
        params=PruningParams(**params),
        tower=_tower(config),
    )


def _tower(config: ScriptConfig) -> TowerThinning | None:
    """How the vision tower is thinned with these settings, if it is."""
    if config.tower_keep == 1:
        return None
    assert config.tower_layer is not None, "plugin.py takes the family's where none is given"
    return TowerThinning(float(config.tower_keep), float(config.tower_layer))


def identifier(stock_hash: str, plan: Plan | None) -> str:
    """Return the identifier of an image, which keys every cache of vLLM's.

    64 hexadecimal digits, as stock vLLM's own hashes are, for some that read identifiers take them
    for numbers. Each digit depends on the image and on the plan, since some read the last few.

    Args:
        stock_hash: what stock vLLM would use: a hash of content and processor arguments, or the
            client's uuid, which may be any text.
        plan: None where pruning leaves it whole; its identifier is then stock's.
    """
    if plan is None:
        return stock_hash
    # A plan's bytes end with its last brace, whatever text follows.
    both = plan.encode() + stock_hash.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(both, digest_size=32).hexdigest()


def image_key(stock_hash: str, *parts: float) -> bytes:
    """Return the key, 16 bytes, of an image or video before selection, the same for all questions.

    A client may send pictures of different sizes under one uuid; the size in the key makes sure
    that what is found under it has the rows that this image's placeholders were counted for. The
    settings of a thinned vision tower are parts of it as well: its features are others.
    """
    name = f"{stock_hash}-{'x'.join(map(str, parts))}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(name, digest_size=16).digest()
