"""What holds for every family: counts, identifiers, and answers as transformers computes them.

The engine prefills in steps of 32 tokens, less than an image has.
"""

import math

import pytest
import torch
from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.interfaces import supports_encoder_cudagraph

from vllm_script import plan
from vllm_script.families.mrope import MRopeFamily
from vllm_script.frontend import planner
from vllm_script.worker.first_layer import first_layer

from .reference import SAME_WEIGHTS

QUESTION, OTHER = "What is shown here?", "Where is the car?"
SIZES = [
    *[(168, 168), (28, 28), (56, 56), (84, 84), (85, 85), (100, 30), (30, 100), (300, 40)],
    *[(90, 400), (400, 90), (127, 128), (200, 150), (150, 200), (251, 333), (333, 251), (336, 336)],
    *[(500, 100), (448, 252), (480, 640), (640, 480)],
]


def pruned(prompt, **script):
    return prompt | {"mm_processor_kwargs": {"script": script}}


def whole(prompt):
    return pruned(prompt, keep_ratio=1.0)


def assert_as_transformers(engine, reference, prompt, answer, kept):
    expected = reference(engine.rendered(whole(prompt)), answer.token_ids, kept)
    assert answer.logprobs == pytest.approx(expected, abs=1e-3)


def test_answers_are_those_of_transformers(engine, reference):
    """Pruned, from the caches, and whole."""
    prompt = engine.prompt([engine.picture(0), f"{QUESTION} {OTHER} " * 2])  # over a block
    engine.forget()
    (answer,) = engine.ask(prompt)
    (kept,) = list(engine.kept)
    (number,) = engine.placeholders(prompt)["image"]
    assert len(kept) == number < engine.placeholders(whole(prompt))["image"][0]
    assert_as_transformers(engine, reference, prompt, answer, [kept])
    (again,) = engine.ask(prompt)
    assert again.cached > 0
    assert again.logprobs == pytest.approx(answer.logprobs, abs=1e-3)
    (all_rows,) = engine.ask(whole(prompt))
    assert_as_transformers(engine, reference, prompt, all_rows, [])
    assert all_rows.logprobs != pytest.approx(answer.logprobs, abs=1e-3)


def test_several_images_some_of_them_whole(engine, reference):
    images = [engine.picture(1), engine.picture(2, 100, 30), engine.picture(3, 200, 250)]
    prompt = engine.prompt([*images, QUESTION])
    sizes = engine.placeholders(whole(prompt))["image"]
    if len(set(sizes)) == 1:
        pytest.skip("images of this family have one size, so a budget leaves all whole, or none")
    budget = sizes[1]
    prompt = pruned(prompt, visual_token_budget=budget)
    engine.forget()
    (answer,) = engine.ask(prompt)
    first, last = engine.kept
    assert engine.placeholders(prompt)["image"] == [budget] * 3
    second = torch.arange(budget)
    assert_as_transformers(engine, reference, prompt, answer, [first, second, last])


def test_a_later_turn_finds_the_first_in_the_prefix_cache(engine, reference):
    first = [engine.picture(4, 280, 200), f"{QUESTION} Describe the image in detail, please."]
    engine.forget()
    engine.ask(engine.prompt(first))
    (kept,) = list(engine.kept)
    prompt = engine.prompt(first, ["A temple."], [engine.picture(5), OTHER])
    prompt = pruned(prompt, conversation="turn")
    (second,) = engine.ask(prompt)
    (new,) = list(engine.kept)
    length = len(engine.rendered(engine.prompt(first))["prompt_token_ids"])
    assert second.cached >= (length - 8) // 32 * 32 > 0  # all but "assistant" and the end
    assert_as_transformers(engine, reference, prompt, second, [kept, new])


def test_requests_at_once_answer_as_alone(engine):
    prompts = [engine.prompt([engine.picture(seed), QUESTION]) for seed in range(10, 16)]
    engine.forget()
    alone = [engine.ask(prompt)[0].logprobs for prompt in prompts]
    engine.forget()
    together = [answer.logprobs for answer in engine.ask(*prompts)]
    assert all(a == pytest.approx(b, abs=1e-3) for a, b in zip(alone, together, strict=True))


def test_preempted_requests_answer_as_transformers(engine, reference):
    """64 blocks of 32 tokens do not hold four requests that grow by 500 tokens each."""
    prompts = [engine.prompt([engine.picture(seed), QUESTION]) for seed in range(20, 24)]
    kept = []
    for prompt in prompts:
        engine.forget()
        engine.ask(prompt)
        kept.append(list(engine.kept))
    engine.forget()
    before = engine.preemptions()
    answers = engine.ask(*prompts, max_tokens=500)
    assert engine.preemptions() > before
    for prompt, answer, rows in zip(prompts, answers, kept, strict=True):
        assert_as_transformers(engine, reference, prompt, answer, rows)


def test_all_rows_through_the_pruning_path_answer_as_the_whole(engine, monkeypatch):
    """The identity selection changes nothing."""
    prompt = engine.prompt([engine.picture(30), "and", engine.picture(31, 90, 250), QUESTION])
    processor = engine.llm.llm_engine.renderer.mm_processor
    layout = engine.family.image_layout(processor.info, 168, 168, {})
    if layout.num_patches < layout.num_placeholders:
        pytest.skip("rows of newlines are never selected, so no selection has all rows")
    (span, _) = engine.rendered(whole(prompt))["mm_placeholders"]["image"]
    if len(span.extract_embeds_range()) > 1:
        pytest.skip("the breaks between rows are not in a pruned image, whatever is selected")
    engine.forget()
    (expected,) = engine.ask(whole(prompt))
    assert not engine.kept
    with monkeypatch.context() as patch:
        patch.setattr(plan, "num_kept", lambda num_placeholders, *_, **__: num_placeholders)
        patch.setattr(planner, "num_rows", lambda *_: 0)  # fewer than all, so that it is pruned
        engine.forget()
        (answer,) = engine.ask(prompt)
    assert [len(kept) for kept in engine.kept] == engine.placeholders(whole(prompt))["image"]
    assert answer.token_ids == expected.token_ids
    assert answer.likeliest == expected.likeliest


@pytest.mark.parametrize("keep_ratio", [0.02, 0.11, 0.5, 0.99])
def test_counts(engine, keep_ratio):
    """The formula of vllm_script/README.md; at least a quarter of the longer side stays.

    What stock vLLM has no room for in its encoder cache is refused.
    """
    core = engine.llm.llm_engine.engine_core.engine_core
    room = core.scheduler.encoder_cache_manager.cache_size
    info = engine.llm.llm_engine.renderer.get_mm_processor().info
    for size in SIZES:
        prompt = engine.prompt([engine.picture(0, *size), QUESTION])
        layout = engine.family.image_layout(info, *size[::-1], {})
        if layout is not None and layout.num_placeholders > room:
            with pytest.raises(VLLMValidationError, match="visual tokens before pruning"):
                engine.rendered(pruned(prompt, keep_ratio=keep_ratio))
            continue
        rendered = engine.rendered(whole(prompt))
        (total,) = engine.placeholders(whole(prompt))["image"]
        (item,) = rendered["mm_kwargs"]["image"]
        fewest = 1
        if "image_grid_thw" in item:
            _, rows, columns = (item["image_grid_thw"].data // 2).tolist()
            assert total == rows * columns
            fewest = math.ceil(max(rows, columns) / 4)
        elif "aspect_ratios" in item:
            fewest = len(item["pixel_values"].data)  # one of every tile
        elif keep_ratio > 0.9:
            continue  # newlines are not kept, however many there are
        kept = min(max(fewest, math.floor(keep_ratio * total + 0.5)), total)
        assert engine.placeholders(pruned(prompt, keep_ratio=keep_ratio)) == {"image": [kept]}


def test_identifiers(engine):
    """Stock's where nothing is pruned; else the plan's, and the plan is the query's."""
    prompt, other = (engine.prompt([engine.picture(0), words]) for words in (QUESTION, OTHER))
    (stock,) = engine.identifiers(whole(prompt))
    assert "script" not in stock
    assert engine.identifiers(pruned(prompt, visual_token_budget=5000)) == [stock]
    (one,), (two,) = engine.identifiers(prompt), engine.identifiers(other)
    assert len({stock, one, two}) == 3
    assert engine.identifiers(pruned(other, query=QUESTION)) == [one]
    later = engine.prompt([engine.picture(0), QUESTION], ["A temple."], [OTHER])
    assert engine.identifiers(later) == [two]
    assert engine.identifiers(pruned(later, conversation="turn")) == [one]


@pytest.mark.parametrize("script", [{"keep_ratio": 7}, {"mode": "best"}, {"query": " "}])
def test_mistakes(engine, script):
    with pytest.raises(VLLMValidationError, match="keep_ratio|mode|query"):
        engine.rendered(pruned(engine.prompt([engine.picture(0), QUESTION]), **script))


def test_no_encoder_is_captured(engine):
    """A CUDA graph of it would return every row."""
    if not supports_encoder_cudagraph(engine.model):
        pytest.skip("vLLM captures no encoder of this model, so there is nothing to switch off")
    assert engine.model.get_encoder_cudagraph_config().modalities == []


def test_an_image_without_its_marks_is_refused(engine):
    """Its position is counted from the text before it, that of the text from behind it."""
    if not isinstance(engine.family, MRopeFamily):
        pytest.skip("this model takes images anywhere: its positions are places in the prompt")
    token = engine.family.token(engine.llm.llm_engine.renderer.mm_processor.info, "image")
    for text in (f"{token}What?", f"What?{token}", f"What?{token}{token}?"):
        images = [engine.picture(seed) for seed in range(text.count(token))]
        prompt = {"prompt": text, "multi_modal_data": {"image": images}}
        with pytest.raises(VLLMValidationError, match="image [01] must stand between"):
            engine.rendered(prompt)
        assert len(engine.placeholders(whole(prompt))["image"]) == len(images)


@torch.no_grad()
def test_the_first_layer_is_that_of_transformers(engine, family_checkpoint):
    """Its norm, queries and keys before positions, for relevance `lm-attention`."""
    from transformers import AutoModelForImageTextToText

    # A gated delta net, norms behind positions, and latent attention.
    if engine.name.startswith(("qwen3.5", "llama4", "kimi")):
        with pytest.raises(ValueError, match="lm-attention .* use --script-relevance embedding"):
            first_layer(engine.model.get_language_model())
        return
    folder = family_checkpoint(SAME_WEIGHTS.get(engine.name, engine.name))
    theirs = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    language = theirs.model.language_model
    layer, attention = language.layers[0], language.layers[0].self_attn
    ours = first_layer(engine.model.get_language_model())
    rows = torch.randn(50, language.config.hidden_size)
    for found, projection, norm in [
        (ours.queries(rows), attention.q_proj, getattr(attention, "q_norm", None)),
        (ours.keys(rows), attention.k_proj, getattr(attention, "k_norm", None)),
    ]:
        expected = projection(layer.input_layernorm(rows)).view(found.shape)
        expected = expected if norm is None else norm(expected)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
