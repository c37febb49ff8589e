"""Disjoint ranges of scene seeds: a scene belongs to exactly one split, for ever."""

SPLITS = {
    "train": range(0, 2_000_000_000),
    "dev": range(2_000_000_000, 2_100_000_000),
    "test": range(2_100_000_000, 2_200_000_000),
}


def seed_of(split: str, index: int) -> int:
    """Return the seed of scene `index` of a split.

    Raises:
        IndexError: the split has no such scene.
    """
    return SPLITS[split][index]
