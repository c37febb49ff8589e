"""How large an item may be before pruning: stock's largest by default, what the operator says else.

Processors alone: no engine runs.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.renderers import renderer_from_config

from vllm_script.benchmarks.checkpoints import WRITERS
from vllm_script.budget import num_kept
from vllm_script.frontend.request import ScriptRequest

from ... import mistral

QUICK = {"llava-next", "qwen2.5-vl"}
"""`make test` runs these; the other families are slow."""
CONTEXT = 4096


@pytest.fixture(
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in WRITERS
    ]
)
def family(request):
    return request.param


def arguments(folder, script):
    settings = None if script is None else {"script": {"relevance": "none"} | script}
    return EngineArgs(
        str(folder),
        additional_config=settings or {},
        max_model_len=CONTEXT,
        trust_remote_code=True,
        limit_mm_per_prompt={"image": 2, "video": 1},
    )


@pytest.fixture
def served(family_checkpoint, family):
    """served(settings) -> renderer of a server of the family."""

    def renderer(**script):
        return renderer_from_config(
            arguments(family_checkpoint(family), script).create_engine_config()
        )

    return renderer


@pytest.fixture
def modalities(known_family, family):
    return known_family(family).modalities


def film(num_frames, height=84, width=140):
    frames = np.zeros((num_frames, height, width, 3), dtype=np.uint8)
    seen = dict(total_num_frames=num_frames, frames_indices=list(range(num_frames)))
    about = dict(fps=2.0, duration=num_frames / 2, video_backend="opencv", do_sample_frames=False)
    return frames, seen | about


def picture(width=140, height=84):
    return Image.new("RGB", (width, height))


def ask(renderer, modality, *items, **script):
    """Render a request with these items; return what they have before pruning and what is left."""
    processor = renderer.get_mm_processor()
    placeholder = processor.family.placeholder(processor.info, modality)
    text = {"prompt": f"Look: {placeholder * len(items)} What is it?"}
    if processor.family.tokenizer_mode == "mistral":
        tokens = mistral.token_ids(renderer.get_tokenizer(), ["Look:", *items, "What is it?"])
        text = {"prompt_token_ids": tokens}
    prompt = {
        **text,
        "multi_modal_data": {modality: list(items)},
        "mm_processor_kwargs": {"script": script or None},
    }
    (rendered,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
    return [span.get_num_embeds() for span in rendered["mm_placeholders"][modality]]


def whole(renderer, modality, item):
    (tokens,) = ask(renderer, modality, item, keep_ratio=1.0)
    return tokens


def test_the_default_is_the_largest_that_stock_profiles(family_checkpoint, family, modalities):
    stock = arguments(family_checkpoint(family), None).create_model_config()
    processor = MULTIMODAL_REGISTRY.create_processor(stock)
    largest = []
    for modality in modalities:
        counts = {modality: 1}
        known = processor.info.get_mm_max_tokens_per_item(CONTEXT, counts)
        if known is None:
            placeholders = processor.get_dummy_mm_inputs(counts)["mm_placeholders"]
            known = {m: spans[0].get_num_embeds() for m, spans in placeholders.items()}
        largest.append(known[modality])
    pruned = arguments(family_checkpoint(family), {}).create_model_config()
    assert MULTIMODAL_REGISTRY.create_processor(pruned).item_limit.largest_item == max(largest)


def test_a_raised_limit_takes_nothing_from_images(served, modalities):
    """Images cannot be profiled larger than stock's, so theirs stays, and so do their dummies."""
    if "image" not in modalities:
        pytest.skip("vLLM takes no images for this family")
    largest = []
    for script in {}, {"max_item_tokens": 10 * CONTEXT}:
        processor = served(**script).get_mm_processor()
        (span,) = processor.get_dummy_mm_inputs({"image": 1})["mm_placeholders"]["image"]
        limit = processor.item_limit.of(ScriptRequest(), "image")
        largest.append((span.get_num_embeds(), limit))
    assert largest[0] == largest[1]


@pytest.mark.parametrize("modality", ["image", "video"])
def test_one_token_too_many_is_refused(served, modalities, modality):
    """Whatever is kept: also of an item that is left whole, where its size is known early."""
    if modality not in modalities:
        pytest.skip(f"vLLM takes no {modality}s for this family")
    item = picture() if modality == "image" else film(8)
    tokens = whole(served(), modality, item)
    assert ask(served(max_item_tokens=tokens), modality, item, keep_ratio=0.1)
    renderer = served(max_item_tokens=tokens - 1)
    for keep_ratio in (0.1, 1.0):
        if keep_ratio == 1.0 and modality == "video" and not early(renderer):
            continue  # then stock's own check of the prompt is all there is
        with pytest.raises(VLLMValidationError) as refused:
            ask(renderer, modality, item, keep_ratio=keep_ratio)
        for part in (f"{tokens} visual tokens", f"at most {tokens - 1}", "fewer frames", "larger"):
            assert part in str(refused.value)
        assert refused.value.parameter == "script"


def early(renderer):
    """Whether the size of a video is known before it is processed."""
    processor = renderer.get_mm_processor()
    return processor.item_limit.video_tokens(film(2), {}) is not None


def test_only_the_large_item_of_several_is_named(served, modalities):
    if "image" not in modalities:
        pytest.skip("vLLM takes no images for this family")
    small, large = picture(28, 28), picture(336, 336)
    tokens = [whole(served(), "image", item) for item in (small, large)]
    if tokens[0] == tokens[1]:
        pytest.skip("images of this family have one size")
    renderer = served(max_item_tokens=tokens[0])
    with pytest.raises(VLLMValidationError, match=f"^image 1 has {tokens[1]} visual tokens"):
        ask(renderer, "image", small, large)


def test_a_video_is_counted_before_it_is_processed(served, modalities, family):
    if "video" not in modalities:
        pytest.skip("vLLM takes no videos for this family")
    renderer = served()
    if not early(renderer):
        assert family.startswith(("qwen3", "glm"))
        return
    processor = renderer.get_mm_processor()
    for shape in (1, 84, 140), (2, 30, 31), (5, 200, 90), (8, 84, 280), (9, 500, 700):
        video = film(*shape)
        counted = processor.item_limit.video_tokens(video, {})
        placeholders = whole(renderer, "video", video)
        assert counted == placeholders, shape


def test_a_video_that_is_refused_is_not_processed(served, modalities, monkeypatch):
    if "video" not in modalities:
        pytest.skip("vLLM takes no videos for this family")
    renderer = served(max_item_tokens=1)
    if not early(renderer):
        pytest.skip("what this family's processor takes of a video is known once it has run")
    processor = renderer.get_mm_processor()
    monkeypatch.setattr(processor, "_apply_hf_processor_main", None)
    with pytest.raises(VLLMValidationError, match="video 0 has"):
        ask(renderer, "video", film(8))


@pytest.mark.parametrize("limit", [600, 3000, 3 * CONTEXT])
def test_a_limit_is_what_memory_is_profiled_with(
    served, modalities, limit, family_checkpoint, family
):
    """The dummy has as many tokens before pruning; what is kept of it fits the context."""
    if "video" not in modalities:
        pytest.skip("vLLM takes no videos for this family, and a limit is raised for these alone")
    processor = served(max_item_tokens=limit).get_mm_processor()
    (video,) = processor.get_dummy_inputs(CONTEXT, {"video": 1}, {}).mm_data_items["video"]
    (span,) = processor.get_dummy_mm_inputs({"video": 1})["mm_placeholders"]["video"]
    tokens = processor.item_limit.video_tokens(video, {})
    if tokens is None:  # the processor bounds all frames together, and no limit can raise that
        request = ScriptRequest(encoder_cache_size=0)
        assert processor.item_limit.of(request, "video") == min(
            limit, processor.item_limit.largest_item
        )
        stock = arguments(family_checkpoint(family), None).create_model_config()
        dummies = MULTIMODAL_REGISTRY.create_processor(stock).get_dummy_mm_inputs({"video": 1})
        assert [span] == dummies["mm_placeholders"]["video"]
        return
    frames = video[0] if isinstance(video, tuple) else video
    fewer = processor.item_limit.video_tokens(frames[:-1], {})
    assert fewer < limit <= tokens
    kept = num_kept(tokens, tokens, keep_ratio=min(1, CONTEXT / limit))
    assert span.get_num_embeds() == (kept or tokens)


@pytest.mark.parametrize("family", ["qwen2.5-vl"], indirect=True)
def test_videos_with_the_pixels_of_published_checkpoints(family_checkpoint, family, tmp_path):
    """The table in vllm_script/README.md: what stock refuses at a context of 32,768 is refused."""
    folder = tmp_path / "model"
    shutil.copytree(family_checkpoint(family), folder)
    for path in folder.glob("*preprocessor_config.json"):
        settings = json.loads(path.read_text())
        settings["size"] = {"shortest_edge": 3136, "longest_edge": 12_845_056}
        path.write_text(json.dumps(settings))
    longer = {"max_position_embeddings": 32_768}
    config = EngineArgs(
        str(folder),
        additional_config={"script": {"relevance": "none"}},
        hf_overrides={**longer, "text_config": longer},
        max_model_len=32_768,
    ).create_model_config()
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    assert processor.item_limit.largest_item == 32_768
    counted = [
        processor.family.video_tokens(processor.info, 32, height, width, {})
        for width, height in [(1280, 720), (1920, 1080), (2560, 1440), (3840, 2160)]
    ]
    assert counted == [19_136, 43_056, 74_256, 168_784]
