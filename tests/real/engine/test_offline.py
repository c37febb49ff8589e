"""The offline interface selects what chat completions select."""

import pytest
from vllm.exceptions import VLLMValidationError

PROMPT = "USER: <image>\nWhat is shown here? ASSISTANT:"


@pytest.fixture(scope="module")
def chat(engine):
    engine.forget()
    return engine.chat(engine.about(0))


def prompt(engine, text=PROMPT, **script):
    kwargs = {"mm_processor_kwargs": {"script": script}} if script else {}
    return {"prompt": text, "multi_modal_data": {"image": engine.image(0)}, **kwargs}


@pytest.mark.parametrize("as_token_ids", [False, True], ids=["text", "token ids"])
def test_generate_finds_the_question(engine, chat, as_token_ids):
    engine.forget()
    raw = prompt(engine)
    if as_token_ids:
        raw["prompt_token_ids"] = engine.llm.get_tokenizer().encode(raw.pop("prompt"))
    answers, selections = engine.generate(raw)
    assert selections == chat[1]
    assert answers[0] == pytest.approx(chat[0][0], abs=1e-3)


def test_generate_with_a_query(engine, chat):
    engine.forget()
    text = PROMPT.replace("What is shown here?", "Why?")
    _, (other,) = engine.generate(prompt(engine, text))
    engine.forget()
    _, (same,) = engine.generate(prompt(engine, text, query="What is shown here?"))
    assert same == chat[1][0] != other


def test_too_few_placeholders(engine):
    with pytest.raises(VLLMValidationError, match="0 image placeholders for 1 images"):
        engine.generate(prompt(engine, "USER: What? ASSISTANT:"))


@pytest.mark.parametrize("script", [{}, {"query": "What is shown here?"}, {"keep_ratio": 1.0}])
def test_placeholders_that_were_repeated_before(engine, script):
    """vLLM would repeat the first of them once more, and leave the others in the prompt."""
    text = PROMPT.replace("<image>", "<image>" * 180)
    with pytest.raises(VLLMValidationError, match="180 image placeholders for 1 images; give one"):
        engine.generate(prompt(engine, text, **script))


def test_chat_with_overrides(engine):
    engine.forget()
    script = {"visual_token_budget": 7, "mode": "uniform"}
    _, selections = engine.chat(engine.about(0), mm_processor_kwargs={"script": script})
    assert selections == [tuple((2 * i + 1) * 180 // 14 for i in range(7))]


@pytest.mark.parametrize("script", [{"keep_ratio": 7}, {"mode": "best"}, "0.5"])
def test_mistakes(engine, script):
    with pytest.raises(VLLMValidationError, match="keep_ratio|mode|dictionary"):
        engine.chat(engine.about(0), mm_processor_kwargs={"script": script})
