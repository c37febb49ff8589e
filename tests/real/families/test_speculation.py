"""Speculative decoding: pruned answers as without it, wherever drafts are cut off.

M-RoPE models take drafts from the text (n-grams), others from a head that reads the model's states
(EAGLE). Drafts that are accepted and drafts that are not have both to happen, or the tests fail.
"""

import pytest
import torch
from safetensors.torch import save_file

from vllm_script.benchmarks.checkpoints.parts import write_json
from vllm_script.families.mrope import MRopeFamily

from .conftest import Engine, started
from .test_family import QUESTION, assert_as_transformers, pruned

NGRAM = dict(method="ngram", prompt_lookup_min=1, prompt_lookup_max=3, num_speculative_tokens=3)
HEADED = "mistral3"
"""The family for which a head drafts here: vLLM looks for `image_token_index` in the configuration
of a model that has one."""
LONG = 60
"""Tokens of an answer, in which a random model begins to repeat itself."""


@pytest.fixture(scope="module")
def speculating(engine, family_checkpoint, tmp_path_factory):
    """The family's engine once more, with speculative decoding."""
    if engine.name.startswith("qwen3.5"):
        pytest.skip("vLLM's states on CPUs are for drafts of one length, and for no prefix cache")
    if isinstance(engine.family, MRopeFamily):
        speculative_config = NGRAM
    elif engine.name == HEADED:
        folder = tmp_path_factory.mktemp("head")
        write_head(folder, engine.llm.model_config.hf_config.get_text_config())
        speculative_config = dict(method="eagle", model=str(folder), num_speculative_tokens=2)
    else:
        pytest.skip("positions of this family are places in the prompt; a head drafts for others")
    checkpoint = family_checkpoint(engine.name)
    llm = started(engine.name, checkpoint, speculative_config=speculative_config)
    return Engine(engine.name, llm, engine.kept)


def write_head(folder, text_config):
    """A head that says again what the model said last: it passes the model's state on."""
    width, mlp = text_config.hidden_size, text_config.intermediate_size
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    config = {name: getattr(text_config, name) for name in names}
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
    write_json(folder / "config.json", config)
    sizes = dict.fromkeys([f"self_attn.{part}_proj" for part in "qkvo"], (width, width))
    sizes |= {"mlp.gate_proj": (mlp, width), "mlp.up_proj": (mlp, width)}
    sizes |= {"mlp.down_proj": (width, mlp)}
    weights = {f"layers.0.{name}.weight": torch.zeros(size) for name, size in sizes.items()}
    weights["layers.0.post_attention_layernorm.weight"] = torch.ones(width)
    weights["fc.weight"] = torch.eye(2 * width)[width:]
    save_file(weights, folder / "model.safetensors")


@pytest.fixture
def drafts(speculating, monkeypatch):
    """Of every draft how many tokens it had, and how many were accepted."""
    scheduler, noted = speculating.llm.llm_engine.engine_core.engine_core.scheduler, []
    note = scheduler.make_spec_decoding_stats

    def spy(*args, num_draft_tokens, num_accepted_tokens, **kwargs):
        noted.append((num_draft_tokens, num_accepted_tokens))
        counts = {"num_draft_tokens": num_draft_tokens, "num_accepted_tokens": num_accepted_tokens}
        return note(*args, **counts, **kwargs)

    monkeypatch.setattr(scheduler, "make_spec_decoding_stats", spy)
    return noted


def prompts_of(engine):
    """An image, a video, and both with another image; those that the family takes."""
    parts = [[engine.picture(50)], [engine.picture(51), "before", engine.picture(52, 90, 250)]]
    if "video" in engine.family.modalities:
        parts[1].insert(2, engine.film(51, 4))
        parts.insert(1, [engine.film(50, 4)])
    return [engine.prompt([*items, QUESTION]) for items in parts]


def test_answers_are_those_without_it(engine, speculating, drafts, reference):
    prompts = prompts_of(engine)
    engine.forget()
    alone, kept = [], []
    for prompt in prompts:
        alone += engine.ask(prompt, max_tokens=LONG)
        kept.append(list(engine.kept))
    for prompt, expected, rows in zip(prompts, alone, kept, strict=True):
        speculating.forget()
        (answer,) = speculating.ask(prompt, max_tokens=LONG)
        assert answer.token_ids == expected.token_ids
        assert_as_transformers(engine, reference, prompt, answer, rows)
    proposed, accepted = map(sum, zip(*drafts, strict=True))
    assert proposed > accepted > 0


def test_requests_at_once_answer_as_alone(engine, speculating, drafts):
    prompts = prompts_of(engine)
    prompts.append(pruned(prompts[0], keep_ratio=1.0))
    engine.forget()
    alone = [engine.ask(prompt, max_tokens=LONG)[0] for prompt in prompts]
    speculating.forget()
    for answers in (
        speculating.ask(*prompts, max_tokens=LONG),
        speculating.ask(*prompts[::-1], max_tokens=LONG)[::-1],
    ):
        for answer, expected in zip(answers, alone, strict=True):
            assert answer.token_ids == expected.token_ids
            assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-3)
    if engine.name != HEADED:  # with a head vLLM computes the last block anew that is found
        again = [answer.cached for answer in answers]
        assert max(again) > 0, "the second time the prefix cache has all prompts of over a block"
