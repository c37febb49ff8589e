"""The same image and plan keep the same tokens, whatever else the engine is doing.

One engine in this process, with an encoder cache of one image, chunks smaller than an image and a
KV cache so small that requests are preempted. A spy records what the worker selects.
"""

import os

import numpy as np
import pytest
from PIL import Image

QUESTION = "What is shown here?"
KEPT = 115  # of 192 at keep ratio 0.6
CHUNK = 64


@pytest.fixture(scope="module")
def engine(checkpoint):
    """(llm, selections): every selection is appended as (image's kept rows)."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    from vllm_script.models import pruned

    selections = []
    run_mode = pruned.run_mode

    def spy(visual_tokens, budget, *rest):
        kept = run_mode(visual_tokens, budget, *rest)
        if len(visual_tokens) == 180:
            selections.append(tuple(kept.tolist()))
        return kept

    pruned.run_mode = spy
    llm = LLM(
        str(checkpoint("llava-next")),
        additional_config={"script": {"keep_ratio": 0.6}},
        enforce_eager=True,
        dtype="float32",
        block_size=32,
        max_model_len=512,
        max_num_batched_tokens=CHUNK,
        max_num_seqs=8,
        num_gpu_blocks_override=24,
        seed=0,
        disable_log_stats=False,
    )
    yield llm, selections
    pruned.run_mode = run_mode
    del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]


def image(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (168, 168, 3), dtype=np.uint8))


def message(picture, question=QUESTION):
    part = {"type": "image_pil", "image_pil": picture}
    return [{"role": "user", "content": [part, {"type": "text", "text": question}]}]


def run(engine, *conversations, max_tokens=4):
    """Answers, and the selections made for them."""
    from vllm import SamplingParams

    llm, selections = engine
    selections.clear()
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, logprobs=0)
    outputs = llm.chat(list(conversations), sampling, use_tqdm=False)
    answers = [
        ([step[token].logprob for token, step in zip(o.token_ids, o.logprobs, strict=True)])
        for o in (output.outputs[0] for output in outputs)
    ]
    return answers, list(selections)


def forget(engine):
    """Empty the prefix cache, and fill the encoder cache, which holds one image, with another."""
    run(engine, message(image(99)))
    engine[0].reset_prefix_cache()


def preemptions(llm):
    return sum(m.value for m in llm.get_metrics() if m.name == "vllm:num_preemptions")


@pytest.fixture(scope="module")
def alone(engine):
    (answer,), (kept,) = run(engine, message(image(0)))
    assert len(kept) == KEPT
    return answer, kept


def test_other_images_select_other_tokens(engine, alone):
    """Else the comparisons below would show nothing."""
    _, (kept,) = run(engine, message(image(1)))
    assert kept != alone[1]


def test_with_seven_others(engine, alone):
    others = [message(image(seed)) for seed in range(10, 17)]
    forget(engine)
    answers, selections = run(engine, *others[:3], message(image(0)), *others[3:])
    assert alone[1] in selections
    assert answers[3] == pytest.approx(alone[0], abs=1e-3)


def test_after_eviction(engine, alone):
    forget(engine)
    (answer,), selections = run(engine, message(image(0)))
    assert selections == [alone[1]]
    assert answer == pytest.approx(alone[0], abs=1e-3)


def test_chunks_are_smaller_than_the_image(engine, alone):
    """Chunked prefill is on with 64 tokens a step, so `alone` took its 115 in at least two."""
    scheduler = engine[0].llm_engine.vllm_config.scheduler_config
    assert scheduler.enable_chunked_prefill
    assert scheduler.max_num_batched_tokens < KEPT


def test_preemption(engine, alone):
    """24 blocks of 32 tokens hold five requests of 140 tokens, not eight that grow to 260."""
    llm, _ = engine
    forget(engine)
    before = preemptions(llm)
    conversations = [message(image(seed)) for seed in [0, *range(30, 37)]]
    answers, selections = run(engine, *conversations, max_tokens=120)
    assert preemptions(llm) > before
    assert alone[1] in selections
    assert len(set(selections)) == len(conversations)  # one selection an image, however often
    assert answers[0][:4] == pytest.approx(alone[0], abs=1e-3)


def test_wrong_row_count_names_both_numbers(engine, monkeypatch):
    from vllm.renderers.params import ChatParams

    from vllm_script.models import pruned

    llm, _ = engine
    model = llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    _, (rendered,) = llm.llm_engine.renderer.render_chat(
        [message(image(0))], ChatParams(), skip_mm_cache=True
    )
    (item,) = rendered["mm_kwargs"]["image"]
    fields = {name: elem.data.unsqueeze(0) for name, elem in item.items()}
    (rows,) = model.embed_multimodal(**fields)
    assert rows.shape == (KEPT, 64)

    run_mode = pruned.run_mode
    monkeypatch.setattr(pruned, "run_mode", lambda *args: run_mode(*args)[1:])
    with pytest.raises(RuntimeError, match=f"{KEPT - 1} rows .* {KEPT} placeholders"):
        model.embed_multimodal(**fields)
