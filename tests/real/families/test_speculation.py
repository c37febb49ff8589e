"""Speculative decoding of M-RoPE models: pruned answers as without it, wherever drafts are cut off.

Drafts that are accepted and drafts that are not have both to happen, or the tests fail.
"""

import pytest

from vllm_script.families.mrope import MRopeFamily

from .conftest import Engine, started
from .test_family import QUESTION, assert_as_transformers, pruned

NGRAM = dict(method="ngram", prompt_lookup_min=1, prompt_lookup_max=3, num_speculative_tokens=3)
LONG = 60
"""Tokens of an answer, in which a random model begins to repeat itself."""


@pytest.fixture(scope="module")
def speculating(engine, family_checkpoint):
    """The family's engine once more, with speculative decoding by n-grams."""
    if not isinstance(engine.family, MRopeFamily):
        pytest.skip("positions of this family are places in the prompt, for which vLLM has tests")
    if engine.name.startswith("qwen3.5"):
        pytest.skip("vLLM's states on CPUs are for drafts of one length, and for no prefix cache")
    llm = started(engine.name, family_checkpoint(engine.name), speculative_config=NGRAM)
    return Engine(engine.name, llm, engine.kept)


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
    parts = [[engine.picture(50)], [engine.film(50, 4)]]
    parts.append([engine.picture(51), "before", engine.film(51, 4), engine.picture(52, 90, 250)])
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
    again = [answer.cached for answer in answers]
    assert max(again) > 0, "the second time the prefix cache has all prompts of over a block"
