"""Another question about a known image costs a selection: no preprocessing, no encoding.

With the caches off, everything comes out the same to the last bit.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config
from vllm.renderers.params import ChatParams

from vllm_script.frontend.pixel_cache import PixelCache
from vllm_script.worker.feature_cache import PAGE_ROWS, FeatureCache

QUESTIONS = ["What is shown here?", "Where is the car?", "Why?"]
IMAGE_PAGES = 3
"""A 168x168 image has 180 patches."""


def feature_cache(pages):
    page_gb = PAGE_ROWS * (64 + 64) * 4 / 2**30
    return FeatureCache(pages * page_gb, 64, 64, torch.float32, "cpu")


@pytest.fixture(scope="module")
def model(engine):
    return engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model


@pytest.fixture(scope="module")
def processor(engine):
    return engine.llm.llm_engine.renderer.get_mm_processor()


@pytest.fixture(autouse=True)
def empty_caches(model, processor, monkeypatch):
    monkeypatch.setattr(model, "feature_cache", feature_cache(100))
    monkeypatch.setattr(processor, "pixel_cache", PixelCache(1))


@pytest.fixture
def encoded(model):
    """Encoder batches since the test began, in tiles."""
    batches = []
    hook = model.vision_tower.register_forward_pre_hook(
        lambda module, inputs: batches.append(len(inputs[0]))
    )
    yield batches
    hook.remove()


@pytest.fixture
def processed(processor, monkeypatch):
    """Calls of the Hugging Face processor since the test began, in images."""
    calls = []
    call = processor._call_hf_processor

    def spy(hf_data, hf_kwargs):
        calls.append(len(hf_data["images"]))
        return call(hf_data, hf_kwargs)

    monkeypatch.setattr(processor, "_call_hf_processor", spy)
    return calls


def rendered(renderer, messages, **script):
    """What the worker is sent for the images of a conversation, one dict of tensors an image."""
    params = ChatParams(chat_template_kwargs={"script": script})
    _, (prompt,) = renderer.render_chat([messages], params, skip_mm_cache=True)
    items = prompt["mm_kwargs"]["image"]
    return [{name: elem.data for name, elem in item.items()} for item in items]


def turn(*images, question=QUESTIONS[0], uuid=None):
    parts = [{"type": "image_pil", "image_pil": image} for image in images]
    parts = [part | {"uuid": uuid} for part in parts] if uuid else parts
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def sized(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@torch.no_grad()
def rows_of(model, image):
    (rows,) = model.embed_multimodal(**{name: data[None] for name, data in image.items()})
    return rows


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def asked_in_turn(engine):
    """Answers and selections of questions about three images, each asked alone, none remembered."""
    engine.llm.reset_prefix_cache()
    engine.llm.llm_engine.renderer.clear_mm_cache()
    asked = [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1)]  # with two kept, 1 is gone by then
    return [engine.chat(engine.about(seed, QUESTIONS[question])) for seed, question in asked]


def test_a_second_question_is_neither_preprocessed_nor_encoded(engine, model, encoded, processed):
    engine.forget()
    del encoded[:], processed[:]
    for question in QUESTIONS:
        engine.chat(engine.about(0, question))
    assert (encoded, processed) == ([5], [1])
    assert (model.feature_cache.hits, model.feature_cache.misses) == (2, 3)  # and those of `forget`
    # The same questions again: vLLM's own cache has the fields, ours still has the features.
    engine.llm.reset_prefix_cache()
    engine.chat(*[engine.about(0, question) for question in QUESTIONS])
    assert (encoded, processed) == ([5], [1])


@pytest.mark.parametrize("relevance", ["clip", "embedding"])
def test_rows_are_those_of_no_cache(engine, model, relevance):
    renderer = engine.llm.llm_engine.renderer
    images = [
        rendered(renderer, engine.about(0, question), relevance=relevance)[0]
        for question in QUESTIONS
    ]
    model.feature_cache = feature_cache(0)
    expected = [rows_of(model, image) for image in images]
    model.feature_cache = feature_cache(100)
    found = [rows_of(model, image) for image in images]
    assert model.feature_cache.hits == 2
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("pages, hits", [(100, 3), (2 * IMAGE_PAGES, 2), (IMAGE_PAGES - 1, 0)])
def test_answers_are_those_of_no_cache(engine, model, processor, pages, hits):
    """A cache of all three images, of two, and one that is too small for any."""
    model.feature_cache, processor.pixel_cache = feature_cache(0), PixelCache(0)
    expected = asked_in_turn(engine)
    model.feature_cache = feature_cache(pages)
    num_bytes = sum(data.nbytes for data in processed_fields(engine).values())
    processor.pixel_cache = PixelCache(pages / IMAGE_PAGES * num_bytes / 2**30)
    assert asked_in_turn(engine) == expected
    assert model.feature_cache.hits == processor.pixel_cache.hits == hits


def processed_fields(engine):
    (image,) = rendered(engine.llm.llm_engine.renderer, engine.about(0))
    return {name: image[name] for name in ("pixel_values", "image_sizes")}


def test_images_left_whole_are_not_cached(engine, model, processor):
    engine.forget()
    caches = (model.feature_cache, processor.pixel_cache)
    before = [(cache.hits, cache.misses) for cache in caches]
    for _ in range(2):
        engine.chat(engine.about(0), mm_processor_kwargs={"script": {"keep_ratio": 1.0}})
        engine.llm.reset_prefix_cache()
    assert [(cache.hits, cache.misses) for cache in caches] == before
    (image,) = rendered(engine.llm.llm_engine.renderer, engine.about(0), keep_ratio=1.0)
    assert image.keys() == {"pixel_values", "image_sizes"}


def test_pictures_under_one_uuid(engine, model, encoded, processed):
    """The uuid stands for the picture, so the second is not looked at: that is its purpose. Not if
    its size is another, for then the rows would not be those of the placeholders."""
    renderer = engine.llm.llm_engine.renderer
    for image, question in [
        (sized(168, 168), QUESTIONS[0]),
        (sized(168, 168, seed=1), QUESTIONS[1]),
        (sized(84, 168), QUESTIONS[1]),
        (sized(84, 168), QUESTIONS[2]),
    ]:
        (fields,) = rendered(renderer, turn(image, question=question, uuid="a"))
        assert len(rows_of(model, fields)) == int(fields["script_count"])
    assert (encoded, processed) == ([5, 3], [1, 1])


def test_images_processed_together_are_as_if_alone(engine, processed):
    """One of five tiles, one of three, the first again, and one left whole."""
    renderer = engine.llm.llm_engine.renderer
    images = [sized(168, 168), sized(84, 168), sized(168, 168), sized(100, 30)]
    together = rendered(renderer, turn(*images), visual_token_budget=88)
    assert processed == [1, 1, 1]
    assert [len(fields["pixel_values"]) for fields in together] == [5, 3, 5, 3]
    renderer.get_mm_processor().pixel_cache = PixelCache(0)
    for image, fields in zip(images, together, strict=True):
        (alone,) = rendered(renderer, turn(image), visual_token_budget=88)
        assert all(torch.equal(fields[name], alone[name]) for name in alone)


def test_requests_in_many_threads(engine, processor):
    renderer = engine.llm.llm_engine.renderer
    asked = [(seed, question) for question in QUESTIONS for seed in range(6)]
    expected = [rendered(renderer, engine.about(*about))[0] for about in asked]
    num_bytes = sum(data.nbytes for data in processed_fields(engine).values())
    processor.pixel_cache = PixelCache(3 * num_bytes / 2**30)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda about: rendered(renderer, engine.about(*about))[0], asked * 2)
        assert all(equal(*pair) for pair in zip(found, expected * 2, strict=True))


def test_vllms_commands_to_forget_are_heard(engine, model, encoded, processed):
    """It gives them when weights change, before it sleeps, and when the operator says so."""
    engine.chat(engine.about(0, QUESTIONS[0]))
    engine.llm.llm_engine.reset_encoder_cache()
    engine.llm.reset_mm_cache()
    del encoded[:], processed[:]
    engine.chat(engine.about(0, QUESTIONS[1]))
    assert (encoded, processed) == ([5], [1])
    model.load_weights([])
    engine.chat(engine.about(0, QUESTIONS[2]))
    assert (encoded, processed) == ([5, 5], [1])


@pytest.mark.parametrize(
    "flags",
    [
        {"mm_processor_cache_gb": 0},
        {"mm_processor_cache_gb": 0, "enable_prefix_caching": False},
        {"additional_config": {"script": {"cache_gb": 0}}},
    ],
    ids=["no cache of vLLM's", "and no prefix cache", "off"],
)
def test_settings(engine, checkpoint, flags):
    args = EngineArgs(
        str(checkpoint("llava-next")), **{"additional_config": {"script": {}}} | flags
    )
    renderer = renderer_from_config(args.create_engine_config())
    for question in QUESTIONS:
        (image,) = rendered(renderer, engine.about(0, question))
    cache = renderer.get_mm_processor().pixel_cache
    off = "additional_config" in flags
    assert (cache.hits, cache.misses) == ((0, 0) if off else (2, 1))
    assert len(image["script_key"]) == (0 if off else 16)
