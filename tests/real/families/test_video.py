"""Videos: an exact number of tokens for each, some of every frame, positions by their time."""

import math

import pytest

from vllm_script.frontend.metrics import metrics

QUESTION = "What is shown here?"


def pruned(prompt, **script):
    return prompt | {"mm_processor_kwargs": {"script": script}}


def whole(prompt):
    return pruned(prompt, keep_ratio=1.0)


def grid_of(engine, prompt):
    """Frames, and tokens of each, before pruning."""
    rendered = engine.rendered(whole(prompt))
    (item,), (span,) = rendered["mm_kwargs"]["video"], rendered["mm_placeholders"]["video"]
    if "video_grid_thw" in item:
        frames = int(item["video_grid_thw"].data[0])
    else:
        (frames,) = {len(item[name].data) for name in item if name.startswith("pixel")}
    return frames, span.get_num_embeds() // frames


def assert_as_transformers(engine, reference, prompt, answer, kept):
    expected = reference(engine.rendered(whole(prompt)), answer.token_ids, kept)
    assert answer.logprobs == pytest.approx(expected, abs=1e-3)


def test_answers_are_those_of_transformers(engine, reference):
    prompt = engine.prompt([engine.film(0), QUESTION])
    engine.forget()
    (answer,) = engine.ask(prompt)
    (kept,) = list(engine.kept)
    frames, size = grid_of(engine, prompt)
    (number,) = engine.placeholders(prompt)["video"]
    (total,) = engine.placeholders(whole(prompt))["video"]
    assert len(kept) == number == math.floor(0.4 * total + 0.5)
    assert len((kept // size).unique()) == frames
    assert_as_transformers(engine, reference, prompt, answer, [kept])
    (again,) = engine.ask(prompt)
    assert again.cached > 0
    assert again.logprobs == pytest.approx(answer.logprobs, abs=1e-3)
    (all_rows,) = engine.ask(whole(prompt))
    assert_as_transformers(engine, reference, prompt, all_rows, [])


def test_images_and_videos_in_one_prompt(engine, reference):
    parts = [engine.picture(1), "before", engine.film(1, 4), engine.picture(2, 90, 250)]
    prompt = engine.prompt([*parts, QUESTION])
    engine.forget()
    (answer,) = engine.ask(prompt)
    assert_as_transformers(engine, reference, prompt, answer, list(engine.kept))
    placeholders = engine.placeholders(prompt)
    assert sorted(map(len, engine.kept)) == sorted(placeholders["image"] + placeholders["video"])


def test_requests_at_once_answer_as_alone(engine):
    films = [engine.film(seed, frames) for seed, frames in enumerate((4, 6, 4))]
    prompts = [engine.prompt([film, QUESTION]) for film in films]
    prompts[1] = whole(prompts[1])
    engine.forget()
    alone = [engine.ask(prompt)[0].logprobs for prompt in prompts]
    engine.forget()
    together = [answer.logprobs for answer in engine.ask(*prompts)]
    assert all(a == pytest.approx(b, abs=1e-3) for a, b in zip(alone, together, strict=True))


def test_a_second_question_encodes_nothing(engine):
    model = engine.model
    engine.forget()
    film = engine.film(3)
    engine.ask(engine.prompt([film, QUESTION]))
    hits, misses = model.feature_cache.hits, model.feature_cache.misses
    engine.ask(engine.prompt([film, "Where is the car?"]))
    assert (model.feature_cache.hits, model.feature_cache.misses) == (hits + 1, misses)


SHAPES = [(2, 84, 84), (4, 90, 200), (5, 200, 90), (8, 140, 140), (9, 84, 300), (12, 60, 160)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("keep_ratio", [0.01, 0.3, 1.0])
def test_counts(engine, shape, keep_ratio):
    frames, height, width = shape
    prompt = engine.prompt([engine.film(0, frames, width, height), QUESTION])
    grid_frames, size = grid_of(engine, prompt)
    (total,) = engine.placeholders(whole(prompt))["video"]
    (kept,) = engine.placeholders(pruned(prompt, keep_ratio=keep_ratio))["video"]
    assert kept >= max(grid_frames, math.floor(keep_ratio * total + 0.5))
    if keep_ratio > 0.1:
        assert kept == math.floor(keep_ratio * total + 0.5)


def test_identifiers(engine):
    prompt = engine.prompt([engine.film(0), QUESTION])
    other = engine.prompt([engine.film(0), "Why?"])
    (stock,), (one,), (two,) = map(engine.identifiers, (whole(prompt), prompt, other))
    assert "script" not in stock
    assert len({stock, one, two}) == 3
    assert engine.identifiers(pruned(other, query=QUESTION)) == [one]


def counted():
    """Videos that were pruned in this process, and their visual tokens before and after."""
    figures = metrics()
    videos = sum(
        sample.value
        for family in figures.items["video"].collect()
        for sample in family.samples
        if sample.name == "script_videos_total"
    )
    return [videos, figures.tokens_in._value.get(), figures.tokens_kept._value.get()]


def test_every_request_with_a_pruned_video_is_counted(engine):
    prompt = engine.prompt([engine.film(40), QUESTION])
    (kept,), (total,) = (engine.placeholders(p)["video"] for p in (prompt, whole(prompt)))
    engine.forget()
    before = counted()
    for _ in range(2):  # the second time vLLM's cache has it
        engine.ask(prompt)
    assert [a - b for a, b in zip(counted(), before, strict=True)] == [2, 2 * total, 2 * kept]
    engine.ask(whole(prompt), pruned(prompt, visual_token_budget=total))
    assert counted()[0] - before[0] == 2, "videos that are left whole"
