"""Batches made in worker processes, in their order."""

from torch.utils.data import DataLoader, Dataset

PREFETCH = 2


def in_order(source: Dataset, start: int, stop: int, workers: int, pin: bool) -> DataLoader:
    """Return batches `start` to `stop` of a source of whole batches by number.

    Args:
        workers: processes that make them; 0 makes them in this one.
        pin: whether a GPU takes them.
    """
    return DataLoader(
        source,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        multiprocessing_context="fork" if workers else None,
        pin_memory=pin,
    )
