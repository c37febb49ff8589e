"""CLIP relevance in the worker against transformers' own CLIPModel."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel
from vllm.config import LoadConfig, set_current_vllm_config
from vllm.model_executor.model_loader import get_model, register_model_loader
from vllm.model_executor.model_loader.runai_streamer_loader import RunaiModelStreamerLoader
from vllm.model_executor.model_loader.weight_utils import safetensors_weights_iterator
from vllm.renderers.params import ChatParams

from vllm_script.kernels import query_relevance
from vllm_script.plan import Plan
from vllm_script.relevance import clip

QUERIES = {
    "one window": "the temple",
    "three windows": "Is there a tree to the left of the building, and what colour is the roof "
    "of the temple? Read the sign above the door, too.",
}


@pytest.fixture(scope="module")
def worker_model(engine):
    return engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model


@pytest.fixture(scope="module")
def folder(checkpoint):
    return checkpoint("llava-next") / "clip"


def fields_of(engine, query):
    """What the worker is sent for an image and a query."""
    params = ChatParams(chat_template_kwargs={"script": {"query": query}})
    renderer = engine.llm.llm_engine.renderer
    _, (rendered,) = renderer.render_chat([engine.about(0)], params, skip_mm_cache=True)
    (item,) = rendered["mm_kwargs"]["image"]
    return {name: elem.data.unsqueeze(0) for name, elem in item.items()}


@torch.no_grad()
def expected_relevance(folder, tiles, rows, query):
    """The definition, with transformers' classes alone."""
    model = CLIPModel.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hidden = model.vision_model(tiles, output_hidden_states=True).hidden_states[-2][:, 1:]
    patches = model.visual_projection(model.vision_model.post_layernorm(hidden)).flatten(0, 1)[rows]
    token_ids = tokenizer.encode(query, add_special_tokens=False)
    texts = []
    for start in range(0, len(token_ids), 14):  # 16 positions less BOS and EOS
        window = [tokenizer.bos_token_id, *token_ids[start : start + 14], tokenizer.eos_token_id]
        features = model.get_text_features(torch.tensor([window]))
        texts.append(getattr(features, "pooler_output", features)[0])
    cosine = torch.nn.functional.cosine_similarity(
        patches[:, None], torch.stack(texts)[None], dim=-1
    )
    score = -cosine.mean(1)
    return (score - score.min() + 1e-6) / (score.max() - score.min()), len(texts)


@pytest.mark.parametrize("name", QUERIES)
def test_relevance_equals_transformers(name, engine, worker_model, folder):
    query = QUERIES[name]
    fields = fields_of(engine, query)
    plan = Plan.decode(bytes(fields.pop("script_plan")[0].tolist()))
    del fields["script_count"], fields["script_key"]
    with torch.no_grad():
        image = worker_model.encode("image", fields)
        rows = image.layout.candidates
        relevance = worker_model.script_clip(image.states[rows], plan.query)
    expected, num_windows = expected_relevance(folder, fields["pixel_values"][0], rows, query)
    (windows,) = plan.query
    assert num_windows == len(windows) == {"one window": 1, "three windows": 3}[name]
    assert (relevance - expected).abs().max() < 1e-4
    assert relevance.std() > 0.05  # it says something


def test_positive_polarity_turns_the_order_around(folder):
    generator = torch.Generator().manual_seed(0)
    patches, texts = (torch.randn(n, 8, generator=generator) for n in (20, 2))
    negative, positive = (query_relevance(patches, texts, polarity) for polarity in (-1, 1))
    assert (positive + negative).sub(1).abs().max() < 1e-4


def test_polarity_is_a_property_of_the_checkpoint(folder):
    config = CLIPModel.from_pretrained(folder).config
    assert clip.polarity_of(config) == -1
    config.patch_polarity = "positive"
    assert clip.polarity_of(config) == 1


def test_a_query_is_encoded_once(worker_model):
    windows = ((5, 20, 6), (5, 21, 22, 6))
    with torch.no_grad():
        first = worker_model.script_clip.text_embeds(windows)
        assert worker_model.script_clip.text_embeds(windows) is first
        alone = worker_model.script_clip.text_embeds(windows[:1])
    assert torch.allclose(first[:1], alone, atol=1e-6)  # what fills a window up has no say


@register_model_loader("streamed")
class StreamedLoader(RunaiModelStreamerLoader):
    """vLLM's loader for object storage, which reads the model's own files alone; here from disk."""

    def _get_weights_iterator(self, model_or_path, *_):
        files = [str(path) for path in Path(model_or_path).glob("*.safetensors")]
        return safetensors_weights_iterator(files, use_tqdm_on_load=False)


def tensors_of(model):
    """All of CLIP's tensors, by name, copied."""
    return {name: value.clone() for name, value in model.script_clip.named_buffers()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("load_format", ["auto", "safetensors", "dummy", "streamed"])
def test_every_loader_leaves_clip_loaded(load_format, engine, worker_model):
    config = copy.deepcopy(engine.llm.llm_engine.vllm_config)
    config.load_config = LoadConfig(load_format=load_format)
    config.compilation_config.static_forward_context.clear()
    with set_current_vllm_config(config):
        model = get_model(vllm_config=config)
    model.script_clip.check()
    assert equal(tensors_of(model), tensors_of(worker_model))
    newline = torch.equal(model.image_newline, worker_model.image_newline)
    assert newline == (load_format != "dummy")


def test_a_reload_leaves_clip_and_forgets_images(engine, worker_model):
    before, (kept,) = tensors_of(worker_model), engine.chat(engine.about(7))[1]
    worker_model.image_newline.data.zero_()
    assert worker_model.feature_cache.num_bytes > 0
    engine.llm.collective_rpc("reload_weights")
    assert worker_model.feature_cache.num_bytes == 0
    engine.llm.reset_prefix_cache()
    engine.llm.llm_engine.reset_encoder_cache()  # the scheduler's part of it
    assert worker_model.image_newline.abs().sum() > 0
    assert equal(tensors_of(worker_model), before)
    assert engine.chat(engine.about(7))[1] == [kept]


def test_a_worker_with_another_clip_than_the_api_process(engine):
    config = copy.deepcopy(engine.llm.llm_engine.vllm_config)
    config.model_config.vllm_script["clip_digest"] = "0" * 64
    config.compilation_config.static_forward_context.clear()
    with (
        set_current_vllm_config(config),
        pytest.raises(ValueError, match="that of the API process 0000.*install the same"),
    ):
        get_model(vllm_config=config)


def test_clip_selects_other_tokens_than_embedding(engine):
    selections = []
    for relevance in ("clip", "embedding", "none"):
        engine.forget()
        script = {"relevance": relevance}
        _, (kept,) = engine.chat(engine.about(0), mm_processor_kwargs={"script": script})
        selections.append(kept)
    assert len(set(selections)) == 3
