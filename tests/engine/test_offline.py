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


def test_generate_with_a_query(engine, chat):
    engine.forget()
    answers, selections = engine.generate(prompt(engine, query="What is shown here?"))
    assert selections == chat[1]
    assert answers[0] == pytest.approx(chat[0][0], abs=1e-3)


def test_generate_from_token_ids(engine, chat):
    engine.forget()
    text = prompt(engine, query="What is shown here?")
    token_ids = engine.llm.get_tokenizer().encode(text.pop("prompt"))
    _, selections = engine.generate(text | {"prompt_token_ids": token_ids})
    assert selections == chat[1]


def test_generate_without_a_query_is_query_free(engine, chat):
    engine.forget()
    _, raw = engine.generate(prompt(engine))
    engine.forget()
    _, free = engine.chat(engine.about(0), mm_processor_kwargs={"script": {"relevance": "none"}})
    assert raw == free != chat[1]


def test_chat_with_overrides(engine):
    engine.forget()
    script = {"visual_token_budget": 7, "mode": "uniform"}
    _, selections = engine.chat(engine.about(0), mm_processor_kwargs={"script": script})
    assert selections == [tuple((2 * i + 1) * 180 // 14 for i in range(7))]


@pytest.mark.parametrize("script", [{"keep_ratio": 7}, {"mode": "best"}, "0.5"])
def test_mistakes(engine, script):
    with pytest.raises(VLLMValidationError, match="keep_ratio|mode|dictionary"):
        engine.chat(engine.about(0), mm_processor_kwargs={"script": script})
