"""What the scheduler is told of an item, however vLLM sends it."""

import numpy as np
import pytest
from PIL import Image
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.cache import ShmObjectStoreSenderCache
from vllm.multimodal.processing import ProcessorInputs, TimingContext

from vllm_script.config import ScriptConfig
from vllm_script.explain.explained import Explanation
from vllm_script.frontend.request import REQUEST_KEY, ScriptRequest
from vllm_script.wire import MORE_THAN_ANY_STEP, packed_total

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (112, 168, 3), dtype=np.uint8))
FRAMES = RNG.integers(0, 256, (4, 112, 112, 3), dtype=np.uint8)
CLIP = FRAMES, {"fps": 2.0, "frames_indices": [0, 1, 2, 3], "total_num_frames": 4}


@pytest.fixture(scope="module")
def config(checkpoint):
    args = AsyncEngineArgs(
        str(checkpoint("qwen2.5-vl")),
        additional_config={"script": {}},
        mm_processor_cache_type="shm",
        mm_processor_cache_gb=0.05,
        mm_shm_cache_max_object_size_mb=8,
    )
    return args.create_engine_config()


@pytest.fixture(params=["fields", "addresses"])
def process(config, request):
    """process(modality, item, keep_ratio) -> what vLLM sends of it, and its placeholders."""
    processor = MULTIMODAL_REGISTRY.create_processor(config.model_config)
    cache = ShmObjectStoreSenderCache(config) if request.param == "addresses" else None
    encode = processor.info.get_tokenizer().encode

    def process(modality, item, keep_ratio=None, watcher=None, **settings):
        settings = ScriptConfig(keep_ratio, relevance="none", **settings)
        asked = ScriptRequest(queries="", config=settings, watcher=watcher)
        pad = f"<|vision_start|><|{modality}_pad|><|vision_end|>"
        inputs = ProcessorInputs(
            encode(f"What is this?{pad}."),
            processor.info.parse_mm_data({modality: [item]}),
            hf_processor_mm_kwargs={REQUEST_KEY: asked},
            cache=cache,
        )
        processed = processor.apply(inputs, TimingContext(enabled=False))
        (fields,), (span,) = (
            processed[name][modality] for name in ("mm_kwargs", "mm_placeholders")
        )
        assert ("address" in fields) == (cache is not None)
        return fields, span.get_num_embeds()

    process.forget = processor.counter._totals.clear
    yield process
    if cache is not None:
        cache.close()


@pytest.mark.parametrize(("modality", "item"), [("image", PICTURE), ("video", CLIP)])
def test_the_scheduler_is_told_what_encoding_takes(process, modality, item):
    whole, total = process(modality, item, 1.0)
    assert packed_total(whole, modality) is None  # as many as its placeholders
    for _ in range(2):  # the second time vLLM's cache has it
        fields, kept = process(modality, item, 0.5)
        assert kept < total == packed_total(fields, modality)


def test_what_is_forgotten_counts_as_more_than_any_step_takes(process):
    known = packed_total(process("image", PICTURE, 0.5)[0], "image")
    process.forget()
    fields, _ = process("image", PICTURE, 0.5)
    unknown = "address" in fields  # else it was processed anew
    assert packed_total(fields, "image") == (MORE_THAN_ANY_STEP if unknown else known)


@pytest.mark.parametrize(
    ("settings", "kept", "columns"),
    [
        ({"keep_ratio": 0.25}, 8, 4),
        ({"visual_token_budget": 99}, None, 4),  # more than the video has
        ({"keep_ratio": 1.0}, None, None),
    ],
)
def test_what_explain_is_shown_of_a_video(process, settings, kept, columns):
    """Its layout is known once it is processed, whatever vLLM then makes of its fields."""
    explanation = Explanation()
    _, length = process("video", CLIP, watcher=explanation, **settings)
    (item,) = explanation.items
    assert (item.modality, item.source, item.num_tokens) == ("video", "none", length)
    assert item.num_visual_tokens == 32 and len(item.content[0]) == 4
    assert (item.layout and (item.layout.num_frames, item.layout.columns)) == (
        columns and (2, columns)
    )
    assert (item.plan and item.plan.num_kept(*item.layout.counts)) == kept
