"""More processes than one: several API servers, several tensor-parallel ranks.

Every picture is asked about six times, so all but the first find it in the caches.
"""

import httpx
import pytest

QUESTIONS = ["What is shown here?", "How many people are there?"]
SETTINGS = [None, {"keep_ratio": 0.3, "mode": "cdpruner"}, {"relevance": "embedding"}]
SCRIPT = ("--plugin", "script", "--keep-ratio", "0.11", "--script-explain")


# Two ranks add up features in another order than one. Where that turns a tie between two tokens
# around, both ranks keep the other one: a few of 24 answers may differ, had the ranks selected
# different tokens all would.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param((("--api-server-count", "2"), {}, 0), id="two API servers"),
        pytest.param(
            (("--tensor-parallel-size", "2"), {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}, 3),
            id="tensor parallel of two",
        ),
    ],
)
def server_and_ties(request, vllm_server):
    flags, env, ties = request.param
    with vllm_server("llava-next", *SCRIPT, *flags, **env) as server:
        yield server, ties


@pytest.fixture
def server(server_and_ties):
    return server_and_ties[0]


def test_answers_are_those_of_one_process(server_and_ties, uncached_server, picture, ask):
    server, ties = server_and_ties
    differing = 0
    for seed in range(900, 904):
        for question in QUESTIONS:
            for script in SETTINGS:
                parts = [picture(168, 168, seed=seed), {"type": "text", "text": question}]
                expected = ask(uncached_server, parts, script)
                answer = ask(server, parts, script)
                assert answer.prompt_tokens == expected.prompt_tokens
                differing += abs(answer.logprobs[0] - expected.logprobs[0]) > 1e-3
    assert differing <= ties


def test_mistakes_are_found_in_every_process(server, picture):
    parts = [picture(168, 168), {"type": "text", "text": "What?"}]
    body = {
        "model": "tiny",
        "max_tokens": 1,
        "messages": [{"role": "user", "content": parts}],
        "script": {"keep_ratio": 7},
    }
    for _ in range(8):  # each on a connection of its own, so that each server gets some
        reply = httpx.post(f"{server.url}/chat/completions", json=body, timeout=300)
        assert reply.status_code == 400
        assert "got 7" in reply.json()["error"]["message"]


def test_explanations_are_those_of_one_process(server_and_ties, pruning_server, picture):
    server, ties = server_and_ties
    kept = [explained(each, picture) for each in (server, pruning_server)]
    assert sum(a != b for a, b in zip(*kept, strict=True)) <= ties


def explained(server, picture):
    """The patches that are kept of four pictures."""
    kept = []
    for seed in range(900, 904):
        content = [picture(168, 168, seed=seed), {"type": "text", "text": QUESTIONS[0]}]
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        reply = httpx.post(f"{server.url}/script/explain", json=body, timeout=300).json()
        kept.append(set(reply["images"][0]["kept_patches"]))
        assert len(kept[-1]) == 21
    return kept


@pytest.mark.slow
def test_the_first_layer_says_the_same_shared_out_to_ranks(vllm_server, pruning_server, picture):
    """Each rank has some of the heads that relevance `lm-attention` is the sum over."""
    flags = (*SCRIPT, "--script-relevance", "lm-attention")
    with vllm_server("llava-next", *flags) as server:
        alone = explained(server, picture)
    ranks = ("--tensor-parallel-size", "2")
    with vllm_server("llava-next", *flags, *ranks, VLLM_CPU_OMP_THREADS_BIND="0|1") as server:
        shared = explained(server, picture)
    assert sum(a != b for a, b in zip(alone, shared, strict=True)) <= 1  # a tie, see above
    assert all(a != b for a, b in zip(alone, explained(pruning_server, picture), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava-next", "qwen2.5-vl", "qwen3-vl"])
def test_a_pipeline_answers_as_one_process(vllm_server, picture, ask, family):
    """The first stage alone encodes and knows the rows' positions, and tells the second."""
    flags = ("--plugin", "script", "--keep-ratio", "0.3")
    with vllm_server(family, *flags) as server:
        alone = _answers(server, ask, picture)
    # vLLM's CPU worker makes room for what stages send each other while it compiles, or not at all.
    stages = ("--pipeline-parallel-size", "2", "--no-enforce-eager")
    stages += ("--compilation-config", '{"mode": 2, "backend": "eager"}')
    with vllm_server(family, *flags, *stages, VLLM_CPU_OMP_THREADS_BIND="0|1") as server:
        for answer, expected in zip(_answers(server, ask, picture), alone, strict=True):
            assert answer.prompt_tokens == expected.prompt_tokens
            assert answer.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


def _answers(server, ask, picture):
    """Of an image, of two with text between, and again from the caches."""
    prompts = [
        [picture(168, 168, seed=1), {"type": "text", "text": QUESTIONS[0]}],
        [
            *(picture(168, 168, seed=2), {"type": "text", "text": QUESTIONS[1]}),
            *(picture(112, 252, seed=3), {"type": "text", "text": "And here?"}),
        ],
    ]
    return [ask(server, parts) for parts in prompts * 2]
