"""Prompts of embeddings beside pruned images, in models whose rows carry their positions."""

import pytest
import torch

from vllm_script.families.mrope import MRopeFamily

from .conftest import Engine, started
from .test_family import QUESTION

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedding(engine, family_checkpoint):
    """The family's engine once more, which takes embeddings."""
    if not isinstance(engine.family, MRopeFamily):
        pytest.skip("positions of this family are places in the prompt, for which vLLM has tests")
    llm = started(engine.name, family_checkpoint(engine.name), enable_prompt_embeds=True)
    return Engine(engine.name, llm, engine.kept)


def rows_of(engine, ids):
    """Rows of the language model's input embeddings."""
    return engine.model.get_language_model().embed_input_ids(torch.tensor(ids))


def test_embeddings_beside_images_answer_as_their_text(engine, embedding):
    image = engine.prompt([engine.picture(60), QUESTION])
    text = engine.prompt([f"{QUESTION} " * 12])  # more than a step of 32 tokens
    engine.forget()
    alone = [engine.ask(prompt)[0] for prompt in (image, text)]
    rows = rows_of(engine, engine.rendered(text)["prompt_token_ids"])
    embedding.forget()
    for prompts in (image, {"prompt_embeds": rows}), ({"prompt_embeds": rows}, image):
        answers = embedding.ask(*prompts)
        expected = alone if prompts[0] is image else alone[::-1]
        for answer, own in zip(answers, expected, strict=True):
            assert answer.token_ids == own.token_ids
            assert answer.logprobs == pytest.approx(own.logprobs, abs=1e-3)
