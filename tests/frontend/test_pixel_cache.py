"""The front end's cache: bounded by bytes, shared by threads."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vllm_script.frontend.pixel_cache import PixelCache

KIB = 2**-20


def image_of(num_bytes, value=0):
    pixels = torch.full((num_bytes - 16,), value, dtype=torch.uint8)
    return {"pixel_values": pixels, "image_sizes": torch.tensor([1, 2])}


def test_the_least_recently_used_go_first():
    cache = PixelCache(3 * KIB)
    images = {name: image_of(1024) for name in (b"a", b"b", b"c", b"d")}
    for name in (b"a", b"b", b"c"):
        assert cache.get(name) is None
        cache.put(name, images[name])
    assert cache.get(b"a") is images[b"a"]
    cache.put(b"d", images[b"d"])
    assert cache.get(b"b") is None
    assert cache.get(b"a") is images[b"a"]
    assert (cache.hits, cache.misses) == (2, 4)


@pytest.mark.parametrize("capacity_gb, num_bytes", [(KIB, 1025), (0, 17)])
def test_an_image_larger_than_the_cache_is_not_kept_and_drives_none_out(capacity_gb, num_bytes):
    cache = PixelCache(capacity_gb)
    cache.put(b"a", small := image_of(16))
    cache.put(b"large", image_of(num_bytes))
    assert cache.get(b"large") is None
    assert (cache.get(b"a") is small) == (capacity_gb > 0)


def test_clear():
    cache = PixelCache(KIB)
    cache.put(b"a", image_of(100))
    cache.clear()
    assert cache.get(b"a") is None


def test_threads():
    """Eight threads on a cache of 8 of 20 images: each finds its own image or none."""
    cache = PixelCache(8 * KIB)

    def work(seed):
        rng = random.Random(seed)
        for _ in range(2000):
            value = rng.randrange(20)
            found = cache.get(bytes([value]))
            if found is None:
                cache.put(bytes([value]), image_of(1024, value))
            else:
                assert int(found["pixel_values"][0]) == value

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert cache.hits + cache.misses == 8 * 2000
    assert min(cache.hits, cache.misses) > 1000


def test_the_readmes_number_of_images():
    """672x672, LLaVA-NeXT-7B, 16 bits: five tiles of 336x336."""
    cache = PixelCache(1)
    pixels = torch.empty(5, 3, 336, 336, dtype=torch.bfloat16, device="meta")
    for number in range(400):
        cache.put(str(number).encode(), {"pixel_values": pixels, "image_sizes": torch.ones(2)})
    assert sum(cache.get(str(number).encode()) is not None for number in range(400)) == 317
