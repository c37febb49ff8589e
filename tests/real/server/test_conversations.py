"""Long conversations with images in any turn: as without caches, and each turn hits the last."""

import random

import pytest

from ...chats import EDITS, Chat, num_pictures

BLOCK = 32
TEXTS = [
    "What is shown in this picture? Describe it in detail, please.",
    "How many people are there, and what colour is the roof of the temple?",
    "Is there a tree to the left of the building?",
    "Compare the first picture with the second one.",
]


def conversation(rng, picture):
    """Messages of 2 to 4 turns, at most 4 images among them, with settings for the whole."""
    images = rng.sample(range(700, 720), 4)
    messages = []
    for _ in range(rng.randint(2, 4)):
        parts = [{"type": "text", "text": rng.choice(TEXTS)}]
        for _ in range(rng.choice([0, 1, 1, 2])):
            if images:
                size = rng.choice([(168, 168), (100, 60), (84, 200)])
                parts.insert(rng.randint(0, len(parts)), picture(*size, seed=images.pop()))
        messages.append({"role": "user", "content": parts})
        messages.append({"role": "assistant", "content": rng.choice(["Yes.", "A red roof."])})
    return messages[:-1], rng.choice([None, {"keep_ratio": 0.3}, {"mode": "cdpruner"}])


def test_50_conversations(pruning_server, uncached_server, picture, ask):
    rng = random.Random(2)
    for _ in range(50):
        messages, script = conversation(rng, picture)
        script = {**(script or {}), "conversation": "turn"}
        previous = None
        for end in range(1, len(messages) + 1, 2):
            answer = ask(pruning_server, messages[:end], script, max_tokens=2)
            if previous is not None:
                # The last prompt up to its "ASSISTANT:" is where this one begins.
                assert answer.cached_tokens >= (previous.prompt_tokens - 8) // BLOCK * BLOCK
            previous = answer
        truth = ask(uncached_server, messages, script, max_tokens=2)
        assert answer.prompt_tokens == truth.prompt_tokens
        assert answer.logprobs[0] == pytest.approx(truth.logprobs[0], abs=1e-3)
        if answer.token_ids[0] == truth.token_ids[0]:
            assert answer.logprobs[1] == pytest.approx(truth.logprobs[1], abs=1e-3)


@pytest.mark.parametrize("policy", ["latest", "all"])
def test_policies_that_select_anew(policy, pruning_server, uncached_server, picture, ask):
    """A new question is as one to a server without caches, which nobody asked anything before."""
    rng = random.Random(policy)
    for _ in range(6):
        messages, script = conversation(rng, picture)
        script = {**(script or {}), "conversation": policy}
        for end in range(1, len(messages) + 1, 2):
            answer = ask(pruning_server, messages[:end], script, max_tokens=2)
        truth = ask(uncached_server, messages, script, max_tokens=2)
        assert answer.prompt_tokens == truth.prompt_tokens
        assert answer.logprobs[0] == pytest.approx(truth.logprobs[0], abs=1e-3)


def test_edited_chats(pruning_server, uncached_server, picture, ask):
    """Under every policy: edited histories, deleted turns, tools, pictures from before."""
    sizes = [(84, 84), (100, 60), (84, 168)]
    pictures = [picture(*sizes[seed % 3], seed=730 + seed) for seed in range(8)]
    for seed in range(15):
        rng = random.Random(seed)
        chat = Chat(rng, pictures)
        ask(pruning_server, chat.messages, chat.script, max_tokens=1)
        for edit in rng.choices(EDITS, k=3):
            edit(chat)
            answer = ask(pruning_server, chat.messages, chat.script, max_tokens=1)
        assert num_pictures(chat.messages) <= 4
        truth = ask(uncached_server, chat.messages, chat.script, max_tokens=1)
        assert answer.prompt_tokens == truth.prompt_tokens, f"chat {seed}"
        assert answer.logprobs == pytest.approx(truth.logprobs, abs=1e-3), f"chat {seed}"


def test_a_policy_changes_what_is_kept_and_not_how_much(pruning_server, picture, ask):
    image = picture(168, 168, seed=721)
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": TEXTS[0]}]},
        {"role": "assistant", "content": "A temple."},
        {"role": "user", "content": TEXTS[2]},
    ]
    answers = {
        policy: ask(pruning_server, messages, {"conversation": policy})
        for policy in ("turn", "latest", "all")
    }
    assert len({answer.prompt_tokens for answer in answers.values()}) == 1
    assert len({answer.logprobs for answer in answers.values()}) == 3
    # The newest question is as one that the client names.
    named = ask(pruning_server, messages, {"query": TEXTS[2]})
    assert named.cached_tokens >= named.prompt_tokens - BLOCK
    assert named.logprobs == pytest.approx(answers["latest"].logprobs, abs=1e-3)
