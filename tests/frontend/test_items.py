"""Which images of a request are cached, and under which key."""

from PIL import Image
from vllm.multimodal.parse import ImageProcessorItems

from vllm_script.config import ScriptConfig
from vllm_script.frontend.items import HASHES_KEY, ORDERS_KEY, make_orders, take_orders
from vllm_script.identity import image_key
from vllm_script.plan import make_plan

PLAN = make_plan(ScriptConfig(relevance="none"), ())
OTHER_PLAN = make_plan(ScriptConfig(keep_ratio=0.5, relevance="none"), ())


def images_of(*sizes):
    return ImageProcessorItems([size and Image.new("RGB", size) for size in sizes])


def keys_of(plans, hashes, images, caching=True):
    return [order.key for order in make_orders(plans, hashes, images, caching)]


def test_the_key_is_the_images_whatever_its_plan():
    images = images_of((30, 20), (30, 20), (30, 20))
    one, same, other = keys_of([PLAN, OTHER_PLAN, PLAN], ["h", "h", "g"], images)
    assert one == same == image_key("h", 20, 30) != other
    assert len(one) == 16


def test_pictures_of_other_sizes_under_one_uuid():
    keys = keys_of([PLAN] * 3, ["uuid"] * 3, images_of((30, 20), (20, 30), (31, 20)))
    assert len(set(keys)) == 3


def test_what_is_not_cached():
    """An image left whole, one that is a reference to what was sent before, any where it is off."""
    images = images_of((30, 20), None)
    assert keys_of([None, PLAN], ["h", "uuid"], images) == [b"", b""]
    assert keys_of([PLAN, PLAN], ["h", "uuid"], images, caching=False) == [b"", b""]


def test_a_uuid_that_is_hardly_text():
    assert image_key("\ud800", 1, 1) != image_key("?", 1, 1)


def test_orders_are_taken_out_of_the_arguments():
    orders = {"image": make_orders([PLAN], ["h"], images_of((1, 1)), True)}
    kwargs = {ORDERS_KEY: orders, HASHES_KEY: {}, "do_resize": False}
    assert take_orders(kwargs) == (orders, {"do_resize": False})
    assert take_orders({"do_resize": False}) == ({}, {"do_resize": False})
