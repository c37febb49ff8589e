"""The worker's cache: what comes out is what went in, and its size holds."""

import random
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vllm_script.layout import Layout
from vllm_script.worker.encoded_image import EncodedImage, Survivors
from vllm_script.worker.feature_cache import PAGE_ROWS, FeatureCache, default_capacity_gb

WIDTHS = (8, 24)
PAGE_GB = PAGE_ROWS * sum(WIDTHS) * 4 / 2**30


@pytest.mark.parametrize(
    "device, card, capacity",
    [("cpu", None, 1.0), ("cuda", 80, 1.0), ("cuda", 50, 1.0), ("cuda", 16, 0.32)],
)
def test_default_capacity(device, card, capacity, monkeypatch):
    if card is not None:
        monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda: (0, card * 2**30))
    found = default_capacity_gb(torch.device(device), SimpleNamespace(world_size=1))
    assert found == pytest.approx(capacity)


RANK = """
import sys
from dataclasses import replace
from types import SimpleNamespace
import torch
import torch.distributed as dist
from vllm_script.worker.feature_cache import default_capacity_gb

rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.accelerator.get_memory_info = lambda: (0, (16, 24)[rank] * 2**30)
tp_group = SimpleNamespace(world_size=2, cpu_group=dist.group.WORLD)
print(default_capacity_gb(torch.device("cuda"), tp_group))
"""


def test_ranks_agree_on_the_default_capacity(tmp_path):
    """Two ranks, with cards of 16 and 24 GiB."""
    command = [sys.executable, "-P", "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), tmp_path / "ranks"], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    found = [float(rank.communicate(timeout=120)[0]) for rank in ranks]
    assert found == [pytest.approx(0.32)] * 2


def cache_of(pages):
    return FeatureCache(pages * PAGE_GB, *WIDTHS, torch.float32, "cpu")


def image_of(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states, features = (torch.randn(rows, width, generator=generator) for width in WIDTHS)
    return EncodedImage(states, features, Layout(torch.arange(rows)))


def equal(one, other):
    return (
        torch.equal(one.states, other.states)
        and torch.equal(one.features, other.features)
        and one.layout is other.layout
    )


def test_what_a_thinned_tower_left_comes_out_with_it():
    """Of another item that had these pages before, there is nothing left."""
    cache, image = cache_of(3), image_of(100)
    left = Survivors(torch.arange(0, 200, 2), 90)
    cache.put(b"thinned", replace(image, survivors=left))
    found = cache.get(b"thinned")
    assert equal(found, image) and found.survivors.num_candidates == 90
    assert torch.equal(found.survivors.patches, left.patches)
    cache.put(b"whole", image_of(3 * PAGE_ROWS, seed=1))
    assert cache.get(b"thinned") is None and cache.get(b"whole").survivors is None


@pytest.mark.parametrize("rows", [1, PAGE_ROWS, 180, 3 * PAGE_ROWS])
def test_what_comes_out_is_a_copy_of_what_went_in(rows):
    cache, image = cache_of(3), image_of(rows)
    assert cache.get(b"a") is None
    cache.put(b"a", image)
    found = cache.get(b"a")
    assert equal(found, image)
    found.features.zero_()
    assert equal(cache.get(b"a"), image)
    assert (cache.hits, cache.misses) == (2, 1)


def test_the_least_recently_used_go_first():
    cache = cache_of(3)
    for name in (b"a", b"b", b"c"):
        cache.put(name, image_of(PAGE_ROWS))
    assert cache.get(b"a")
    cache.put(b"d", image_of(PAGE_ROWS + 1))
    assert [cache.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [1, 0, 0, 1]


def test_an_image_larger_than_the_cache_is_not_kept_and_drives_none_out():
    cache = cache_of(2)
    cache.put(b"a", image_of(PAGE_ROWS))
    cache.put(b"large", image_of(2 * PAGE_ROWS + 1))
    assert cache.get(b"large") is None
    assert cache.get(b"a")


@pytest.mark.parametrize("capacity_gb", [0, 0.99 * PAGE_GB])
def test_no_page_keeps_nothing(capacity_gb):
    cache = FeatureCache(capacity_gb, *WIDTHS, torch.float32, "cpu")
    cache.put(b"a", image_of(1))
    assert cache.get(b"a") is None


def test_clear():
    cache = cache_of(3)
    cache.put(b"a", image_of(2 * PAGE_ROWS))
    cache.clear()
    assert cache.get(b"a") is None
    cache.put(b"b", image_of(3 * PAGE_ROWS))
    assert cache.get(b"b") is not None


def test_a_thousand_images_of_many_sizes():
    """Whatever was driven out and filled again, no image gets rows of another."""
    cache, rng = cache_of(16), random.Random(0)
    images = {bytes([i]): image_of(rng.randrange(1, 6 * PAGE_ROWS), seed=i) for i in range(12)}
    for _ in range(1000):
        key = rng.choice(list(images))
        found = cache.get(key)
        if found is None:
            cache.put(key, images[key])
        else:
            assert equal(found, images[key])
    assert cache.hits > 100 and cache.misses > 100


def test_an_image_of_another_width_or_dtype_is_refused():
    cache = cache_of(1)
    cache.check(image_of(3))
    wide = EncodedImage(torch.ones(3, 9), torch.ones(3, 24), Layout(torch.arange(3)))
    half = EncodedImage(torch.ones(3, 8), torch.ones(3, 24).half(), Layout(torch.arange(3)))
    for image, words in (wide, "9 x torch.float32, .* says 8 x"), (half, "24 x torch.float16"):
        with pytest.raises(RuntimeError, match=words):
            cache.check(image)


def test_the_readmes_number_of_images():
    """672x672, LLaVA-NeXT-7B, 16 bits: 2,880 patches with states of 1,024 and features of 4,096."""
    cache = FeatureCache(1, 1024, 4096, torch.bfloat16, "meta")
    states, features = (
        torch.empty(2880, width, dtype=torch.bfloat16, device="meta") for width in (1024, 4096)
    )
    image = EncodedImage(states, features, Layout(torch.arange(2880)))
    for number in range(50):
        cache.put(bytes([number]), image)
    assert sum(cache.get(bytes([number])) is not None for number in range(50)) == 36
