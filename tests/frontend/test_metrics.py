"""Which items are counted, and with how many tokens before pruning."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from vllm.multimodal.parse import ImageProcessorItems

from vllm_script.config import ScriptConfig
from vllm_script.frontend import metrics
from vllm_script.frontend.items import PlannedItem
from vllm_script.frontend.metrics import ItemCounter
from vllm_script.layout import Layout
from vllm_script.plan import make_plan

CONFIG = ScriptConfig(relevance="embedding")
PLAN = make_plan(CONFIG, (((1, 2),),))


def layout(num_rows):
    return Layout(torch.arange(num_rows))


@pytest.fixture
def counted(monkeypatch):
    """What is counted, (modality, query, before, after) of each."""
    found = []
    stand_in = SimpleNamespace(
        count_item=lambda modality, plan, *rest: found.append((modality, *rest))
    )
    monkeypatch.setattr(metrics, "metrics", lambda: stand_in)
    return found


def count(counter, items, plans, kept, layout_of):
    planned = [PlannedItem(plan, str(index), b"") for index, plan in enumerate(plans)]
    spans = [SimpleNamespace(get_num_embeds=lambda number=number: number) for number in kept]
    counter.count(items, planned, spans, layout_of, "conversation")


def test_images_that_are_pruned(counted):
    picture = Image.new("RGB", (4, 4))
    items = ImageProcessorItems([picture, picture, None, picture])
    plans = (PLAN, None, PLAN, make_plan(CONFIG, ()))
    count(ItemCounter(), items, plans, [5, 20, 5, 6], lambda index: layout(20))
    assert counted == [("image", "conversation", 20, 5), ("image", "none", 20, 6)]


def test_videos_are_known_from_when_they_were_processed(counted):
    counter = ItemCounter()
    items = SimpleNamespace(modality="video", get=lambda index: "frames")
    for identifier, rows in (("0", 40), ("1", 40)):
        counter.remember(PlannedItem(PLAN, identifier, b""), layout(rows))
    count(counter, items, [PLAN] * 3, [10, 40, 10], lambda index: None)
    # The second is whole, the third not known.
    assert counted == [("video", "conversation", 40, 10)]


def test_the_least_recently_used_is_forgotten(monkeypatch):
    monkeypatch.setattr(metrics, "MAX_ITEMS", 2)
    counter = ItemCounter()
    items = [PlannedItem(PLAN, name, b"") for name in "abc"]
    for item in items[:2]:
        counter.remember(item, layout(3))
    assert counter.known(items[0]) == 3
    counter.remember(items[2], layout(4))
    assert [counter.known(item) for item in items] == [3, None, 4]


def test_data_parallel_engines_are_added_up():
    def observed(hits, in_use):
        seconds = {"encoder": [0.5], "selection": []}
        return {
            "seconds": seconds,
            "cache_hits": hits,
            "cache_misses": 1,
            "cache_bytes": in_use,
            "tower_dropped": 7,
        }

    ours = metrics.metrics()
    hits, misses, in_use = (
        getattr(ours, f"cache_{name}").labels("features")._value
        for name in ("hits", "misses", "bytes")
    )
    dropped = ours.tower_dropped._value
    before = hits.get(), misses.get(), dropped.get()
    for _ in range(2):
        ours.add_worker_observations([observed(2, 100), observed(3, 20)])
    assert (hits.get() - before[0], misses.get() - before[1]) == (10, 4)
    assert dropped.get() - before[2] == 28
    assert in_use.get() == 120
