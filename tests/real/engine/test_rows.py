"""The rows that reach the language model are those that the definition selects."""

import types

import pytest
import torch
from safetensors.torch import load_file
from vllm.distributed import tensor_model_parallel_all_reduce
from vllm.model_executor.models.llava_next import LlavaNextForConditionalGeneration
from vllm.renderers.params import ChatParams

from vllm_script import select_visual_tokens
from vllm_script.plan import Plan
from vllm_script.relevance.lm_attention import LmAttention
from vllm_script.worker.first_layer import first_layer
from vllm_script.worker.model import input_embeddings

QUESTION = "What is shown here?"


@pytest.fixture(scope="module")
def model(engine):
    return engine.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model


def fields_of(engine, seed, **script):
    """What the worker is sent for the image of that seed."""
    params = ChatParams(chat_template_kwargs={"script": script})
    renderer = engine.llm.llm_engine.renderer
    conversation = engine.about(seed, QUESTION)
    _, (rendered,) = renderer.render_chat([conversation], params, skip_mm_cache=True)
    (item,) = rendered["mm_kwargs"]["image"]
    return {name: elem.data.unsqueeze(0) for name, elem in item.items()}


@torch.no_grad()
def stock_patches(model, fields):
    """[180, D] rows of stock vLLM without its newlines: 36 of the base tile, 12 rows of 12."""
    fields = {name: fields[name] for name in ("pixel_values", "image_sizes")}
    (rows,) = LlavaNextForConditionalGeneration.embed_multimodal(unpruned(model), **fields)
    return torch.cat([rows[:36], rows[36:].view(12, 13, -1)[:, :12].flatten(0, 1)])


def unpruned(model):
    """A view of the model in which no override of ours is found."""
    stock = object.__new__(LlavaNextForConditionalGeneration)
    stock.__dict__ = model.__dict__
    return stock


def expected_relevance(engine, checkpoint, patches):
    weights = load_file(checkpoint("llava-next") / "model.safetensors")
    token_ids = engine.llm.get_tokenizer().encode(QUESTION, add_special_tokens=False)
    words = weights["language_model.model.embed_tokens.weight"][token_ids]
    cosine = torch.nn.functional.cosine_similarity(patches[:, None], words[None], dim=-1).mean(1)
    return (cosine - cosine.min() + 1e-6) / (cosine.max() - cosine.min())


@pytest.mark.parametrize("mode", ["script", "cdpruner"])
def test_rows(engine, model, checkpoint, mode):
    fields = fields_of(engine, 0, relevance="embedding", mode=mode, visual_token_budget=20)
    patches = stock_patches(model, fields)
    relevance = expected_relevance(engine, checkpoint, patches)
    kept = select_visual_tokens(patches, 20, relevance=relevance, mode=mode)
    with torch.no_grad():
        (rows,) = model.embed_multimodal(**fields)
    assert torch.equal(rows, patches[kept])
    assert rows.untyped_storage().nbytes() == rows.numel() * rows.element_size()
    opposite = select_visual_tokens(patches, 20, relevance=1.01 - relevance, mode=mode)
    assert not torch.equal(kept, opposite)  # so the sign of relevance is tested too


@torch.no_grad()
def test_the_first_layer_gives_relevance(engine, model, checkpoint):
    """Relevance `lm-attention` of vLLM's Llama, from the weights of its checkpoint."""
    weights = load_file(checkpoint("llava-next") / "model.safetensors")
    text = model.config.text_config
    patches = stock_patches(model, fields_of(engine, 0))
    token_ids = engine.llm.get_tokenizer().encode(QUESTION, add_special_tokens=False)
    words = weights["language_model.model.embed_tokens.weight"][token_ids]
    name = "language_model.model.layers.0."

    def heads(rows, projection):  # [heads, rows, d]
        scale = rows.pow(2).mean(1, keepdim=True).add(text.rms_norm_eps).rsqrt()
        normed = rows * scale * weights[f"{name}input_layernorm.weight"]
        found = normed @ weights[f"{name}self_attn.{projection}.weight"].T
        return found.unflatten(1, (-1, text.hidden_size // text.num_attention_heads)).transpose(
            0, 1
        )

    keys = heads(patches, "k_proj")
    keys = keys.repeat_interleave(text.num_attention_heads // text.num_key_value_heads, 0)
    matches = (heads(words, "q_proj") @ keys.mT).mean(1)  # [heads, rows]
    scores = (matches / matches.norm(dim=1, keepdim=True)).sum(0)
    expected = (scores - scores.min() + 1e-6) / (scores.max() - scores.min())
    layer = first_layer(model.get_language_model())
    found = LmAttention(layer, tensor_model_parallel_all_reduce)(patches, [words])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_every_image_is_encoded_in_a_batch_of_its_own(engine, model):
    one, two = fields_of(engine, 0), fields_of(engine, 1, mode="uniform")
    batch = {
        name: [one[name][0], two[name][0]]
        if one[name].shape != two[name].shape
        else torch.cat([one[name], two[name]])
        for name in one
    }
    batches = []
    hook = model.vision_tower.register_forward_pre_hook(
        lambda module, inputs: batches.append(len(inputs[0]))
    )
    model.forget_images()
    with torch.no_grad():
        together = model.embed_multimodal(**batch)
        hook.remove()
        model.forget_images()
        apart = [*model.embed_multimodal(**one), *model.embed_multimodal(**two)]
    assert batches == [5, 5]  # tiles
    assert all(torch.equal(a, b) for a, b in zip(together, apart, strict=True))


def test_images_of_one_prompt_follow_their_own_plans(engine):
    """Image A is in the processor's cache, image B is not, and they have different questions."""
    first, second = "What is shown here?", "Where is the car?"
    alone = {}
    for seed, question in [(50, first), (51, second), (50, second), (51, first)]:
        engine.forget()
        _, (alone[seed, question],) = engine.chat(engine.about(seed, question))
    assert len(set(alone.values())) == 4
    engine.llm.llm_engine.reset_mm_cache()
    engine.forget()
    engine.chat(engine.about(50, first))
    engine.forget()
    answer = {"role": "assistant", "content": "A temple."}
    _, selections = engine.chat(
        [*engine.about(50, first), answer, *engine.about(51, second)],
        max_tokens=1,
        mm_processor_kwargs={"script": {"conversation": "turn"}},
    )
    assert selections == [alone[50, first], alone[51, second]]


def test_the_worker_reads_the_plan_it_is_sent(engine):
    fields = fields_of(engine, 0, visual_token_budget=20, mode="random")
    plan = Plan.decode(bytes(fields["script_plan"][0].tolist()))
    assert (plan.visual_token_budget, plan.mode, plan.query) == (20, "random", ())
    assert fields["script_count"].tolist() == [20]


def test_relevance_reads_below_a_lora_wrapper():
    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer = torch.nn.Embedding(10, 4)

        def forward(self, token_ids):
            raise AssertionError("its mapping does not describe these tokens")

    language_model = types.SimpleNamespace(model=types.SimpleNamespace(embed_tokens=Wrapper()))
    model = types.SimpleNamespace(get_language_model=lambda: language_model)
    assert input_embeddings(model, torch.tensor([1, 2])).shape == (2, 4)
