"""The same image and plan keep the same tokens, whatever else the engine is doing."""

import pytest
from vllm.renderers.params import ChatParams

from vllm_script.worker import selector

KEPT = 77  # of 192 visual tokens at keep ratio 0.4


@pytest.fixture(scope="module")
def alone(engine):
    (answer,), (kept,) = engine.chat(engine.about(0))
    assert len(kept) == KEPT
    return answer, kept


def test_other_images_select_other_tokens(engine, alone):
    """Else the comparisons below would show nothing."""
    _, (kept,) = engine.chat(engine.about(1))
    assert kept != alone[1]


def test_with_seven_others(engine, alone):
    others = [engine.about(seed) for seed in range(10, 17)]
    engine.forget()
    answers, selections = engine.chat(*others[:3], engine.about(0), *others[3:])
    assert alone[1] in selections
    assert answers[3] == pytest.approx(alone[0], abs=1e-3)


def test_after_eviction(engine, alone):
    engine.forget()
    (answer,), selections = engine.chat(engine.about(0))
    assert selections == [alone[1]]
    assert answer == pytest.approx(alone[0], abs=1e-3)


def test_chunks_are_smaller_than_the_image(engine):
    """So every test here prefills its image in at least two steps."""
    scheduler = engine.llm.llm_engine.vllm_config.scheduler_config
    assert scheduler.enable_chunked_prefill
    assert scheduler.max_num_batched_tokens < KEPT


def test_preemption(engine, alone):
    """24 blocks of 32 tokens hold six requests of 100 tokens, not eight that grow to 220."""
    engine.forget()
    before = engine.preemptions()
    conversations = [engine.about(seed) for seed in [0, *range(30, 37)]]
    answers, selections = engine.chat(*conversations, max_tokens=120)
    assert engine.preemptions() > before
    assert alone[1] in selections
    assert len(set(selections)) == len(conversations)  # one selection an image, however often
    assert answers[0][:4] == pytest.approx(alone[0], abs=1e-3)


def test_wrong_row_count_names_both_numbers(engine, monkeypatch):
    llm_engine = engine.llm.llm_engine
    model = llm_engine.model_executor.driver_worker.worker.model_runner.model
    _, (rendered,) = llm_engine.renderer.render_chat(
        [engine.about(0)], ChatParams(), skip_mm_cache=True
    )
    (item,) = rendered["mm_kwargs"]["image"]
    fields = {name: elem.data.unsqueeze(0) for name, elem in item.items()}
    (rows,) = model.embed_multimodal(**fields)
    assert rows.shape == (KEPT, 64)

    run_modes = selector.run_modes
    monkeypatch.setattr(selector, "run_modes", lambda tasks: [k[1:] for k in run_modes(tasks)])
    with pytest.raises(RuntimeError, match=f"{KEPT - 1} rows .* {KEPT} placeholders"):
        model.embed_multimodal(**fields)
