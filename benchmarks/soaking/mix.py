"""What clients ask, drawn by chance from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from ..serving.expected import Expected
from .client import CHAT, RESPONSES, TOKENIZE, Request
from .mistakes import SCRIPT_MISTAKES, pruned_embeddings, vllm_mistakes
from .pictures import Picture, any_picture, fresh_picture

QUESTIONS = (
    "What color is the cross?",
    "Which digit is yellow?",
    "How many circles are there?",
    "Is there a star to the left of the square?",
    "Describe the picture, from the top left corner to the bottom right one.",
)
REPLIES = ("blue", "yes", "There are 4 of them.")
SCRIPTS: tuple[Any, ...] = (
    *(None, None, None, {}),
    *({"keep_ratio": ratio} for ratio in (0.02, 0.11, 0.3)),
    *({"visual_token_budget": budget} for budget in (1, 7, 100)),
    *(
        {"mode": mode}
        for mode in ("gsp", "cdpruner", "coverage", "mmr", "divprune", "uniform", "random")
    ),
    *({"relevance": source} for source in ("auto", "embedding", "none")),
    {"mode": "cdpruner", "relevance": "embedding", "keep_ratio": 0.2},
)
READING_SCRIPTS: tuple[Any, ...] = (None, {"keep_ratio": 0.3}, {"mode": "cdpruner"})
"""Whose selections depend on the question, so that no two questions share an image."""
SHARED_UUIDS = 8
"""Each for pictures of several sizes."""
LARGE_SCRIPTS: tuple[Any, ...] = ({"keep_ratio": 1.0}, {"keep_ratio": 0.999}, {"keep_ratio": 0.5})
"""Only for one picture at a time: several would not fit in the context."""

STREAM: dict[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
NO_TILE = 224
"""Stands in for the side of a tile in pixels, where a model takes pictures in their own shape."""
MAX_IMAGES = 4
"""The server is to take in one request."""

# Of requests whose client hangs up nobody knows how far they get. They are the only ones that send
# a query, so the plugin counts their images apart, and they are all alike in what is counted.
HANG_UP_SIZE = (2.0, 2.0)
HANG_UP_BUDGET = 50
HANG_UP_MODES = ("script", "cdpruner")

KINDS = {
    "question": 5,
    "gallery": 2,
    "conversation": 2,
    "stream": 2,
    "cut_stream": 2,
    "hang_up": 2,
    "responses": 1,
    "tokenize": 1,
    "text_only": 1,
    "mistake": 2,
    "vllm_mistake": 1,
    "late_mistake": 0.3,
    "embeddings": 0.5,
    "forgotten_uuid": 0.5,
    "wrong_model": 0.5,
    "shared_uuid": 1,
}
"""Methods of `Mix`, and how often they are called."""


class Mix:
    """Draws requests.

    Args:
        expected: counts the tokens of the model's prompts.
        model: name that it is served under.
        keep_ratio: the server's own.
        context: longest prompt in tokens.
    """

    def __init__(self, expected: Expected, model: str, keep_ratio: float, context: int) -> None:
        self._expected, self._model, self._context = expected, model, context
        self._keep_ratio = keep_ratio
        vision = expected.config.vision_config
        self._tile: int = getattr(vision, "image_size", NO_TILE)

    def draw(self, rng: random.Random) -> list[Request]:
        """Requests that one client sends, one after the other."""
        (kind,) = rng.choices(list(KINDS), list(KINDS.values()))
        requests: list[Request] = getattr(self, kind)(rng)
        return requests

    def question(self, rng: random.Random) -> list[Request]:
        return [self._one_picture("question", rng)]

    def gallery(self, rng: random.Random) -> list[Request]:
        number = rng.randint(2, MAX_IMAGES)
        # All different: vLLM counts the second of two that are alike as found in its cache.
        pictures = list(dict.fromkeys(any_picture(rng, self._tile) for _ in range(number)))
        content: list[Any] = [self._text(rng), *(picture.part for picture in pictures)]
        rng.shuffle(content)
        messages = [{"role": "user", "content": content}]
        script = rng.choice([None, *({"keep_ratio": r} for r in (0.02, 0.05, 0.11))])
        return [self._chat("several pictures", messages, pictures, script, rng)]

    def conversation(self, rng: random.Random) -> list[Request]:
        picture, script = any_picture(rng, self._tile), rng.choice(SCRIPTS)
        messages: list[Any] = [{"role": "system", "content": "Answer in a word."}]
        requests = []
        for turn in range(rng.randint(2, 4)):
            content = [self._text(rng)] if turn else [picture.part, self._text(rng)]
            messages.append({"role": "user", "content": content})
            requests.append(self._chat("conversation", list(messages), [picture], script, rng))
            messages.append({"role": "assistant", "content": rng.choice(REPLIES)})
        return requests

    def stream(self, rng: random.Random) -> list[Request]:
        return [self._one_picture("stream", rng, **STREAM)]

    def cut_stream(self, rng: random.Random) -> list[Request]:
        more: dict[str, Any] = {"max_tokens": 300, **STREAM}
        return [self._one_picture("cancelled stream", rng, cut_after=rng.randint(2, 20), **more)]

    def hang_up(self, rng: random.Random) -> list[Request]:
        picture = fresh_picture(rng, self._tile, HANG_UP_SIZE)
        # The query is new, so that nobody asks again for what only one side of vLLM may remember.
        script = {"visual_token_budget": HANG_UP_BUDGET, "mode": rng.choice(HANG_UP_MODES)}
        script["query"] = self._text(rng)["text"]
        messages = [{"role": "user", "content": [picture.part, {"type": "text", "text": "Find."}]}]
        after = rng.uniform(0, 4)
        return [self._chat("hang-up", messages, [picture], script, rng, 40, hang_up=after)]

    def responses(self, rng: random.Random) -> list[Request]:
        picture, text, script = any_picture(rng, self._tile), self._text(rng), rng.choice(SCRIPTS)
        content = [
            {"type": "input_image", "image_url": picture.url, "detail": "auto"},
            {"type": "input_text", "text": text["text"]},
        ]
        asked = [{"role": "user", "content": content}]
        body: dict[str, Any] = {"model": self._model, "input": asked}
        body |= {"max_output_tokens": 8, "temperature": 0, "script": script}
        messages = [{"role": "user", "content": [picture.part, text]}]
        counts = self._counts(messages, [picture], script)
        return [Request("/v1/responses", body, RESPONSES, **counts)]

    def tokenize(self, rng: random.Random) -> list[Request]:
        return [self._one_picture("/tokenize", rng, path=TOKENIZE)]

    def text_only(self, rng: random.Random) -> list[Request]:
        messages = [{"role": "user", "content": self._text(rng)["text"]}]
        return [self._chat("without a picture", messages, [], rng.choice(SCRIPTS), rng)]

    def mistake(self, rng: random.Random) -> list[Request]:
        script, reason = rng.choice(SCRIPT_MISTAKES)
        good = self._one_picture("", rng)
        path = rng.choice([CHAT, CHAT, TOKENIZE])
        body = good.body | {"script": script, "stream": path == CHAT and rng.random() < 0.5}
        return [Request("wrong script", body, path, status=400, refusal=reason)]

    def vllm_mistake(self, rng: random.Random) -> list[Request]:
        body = self._one_picture("", rng, picture=fresh_picture(rng, self._tile, HANG_UP_SIZE)).body
        mistakes = list(vllm_mistakes(body, MAX_IMAGES, self._context))
        return [Request("wrong otherwise", rng.choice(mistakes), status=400)]

    def late_mistake(self, rng: random.Random) -> list[Request]:
        """One that vLLM finds when the images are processed, and so counted."""
        good = self._one_picture("", rng)
        body = good.body | {"max_tokens": -1}
        return [Request("wrong max_tokens", body, status=400, pruned=good.pruned)]

    def embeddings(self, rng: random.Random) -> list[Request]:
        part = pruned_embeddings(self._expected.config.text_config.hidden_size)
        body = self._body([{"role": "user", "content": [part, self._text(rng)]}], {"mode": "gsp"})
        return [Request("pruned image_embeds", body, status=400, refusal="image_embeds")]

    def forgotten_uuid(self, rng: random.Random) -> list[Request]:
        """An image by its name alone, with another question than it came with."""
        picture, uuid = fresh_picture(rng, self._tile), f"{rng.getrandbits(64):x}"
        named = picture.part | {"uuid": uuid}
        first = [{"role": "user", "content": [named, self._text(rng)]}]
        other = {"type": "text", "text": f"Is {rng.getrandbits(32)} written on it?"}
        second = [{"role": "user", "content": [named | {"image_url": None}, other]}]
        return [
            self._chat("picture with a uuid", first, [picture], None, rng),
            Request("uuid with another question", self._body(second, None), status=400),
        ]

    def shared_uuid(self, rng: random.Random) -> list[Request]:
        """A picture under a uuid that pictures of other sizes have as well.

        Each comes with a question of its own. With the same one vLLM would answer about the picture
        that it has cached under the uuid, if that is still there, and nobody could say of what size
        that was.
        """
        picture = fresh_picture(rng, self._tile)
        named = picture.part | {"uuid": f"shared {rng.randrange(SHARED_UUIDS)}"}
        text = {"type": "text", "text": f"Is {rng.getrandbits(64)} written on it?"}
        messages = [{"role": "user", "content": [named, text]}]
        script = rng.choice(READING_SCRIPTS)
        return [self._chat("picture with a shared uuid", messages, [picture], script, rng)]

    def wrong_model(self, rng: random.Random) -> list[Request]:
        body = self._one_picture("", rng).body | {"model": "no-such-model"}
        return [Request("wrong model", body, status=404)]

    def _one_picture(
        self, kind: str, rng: random.Random, picture: Picture | None = None, **more: Any
    ) -> Request:
        script = rng.choice(SCRIPTS + LARGE_SCRIPTS)
        if script and script.get("keep_ratio") == 1.0:
            picture = fresh_picture(rng, self._tile)  # so vLLM's own cache never has it
        picture = picture or any_picture(rng, self._tile)
        messages = [{"role": "user", "content": [picture.part, self._text(rng)]}]
        return self._chat(kind, messages, [picture], script, rng, **more)

    def _chat(
        self,
        kind: str,
        messages: Sequence[Mapping[str, Any]],
        pictures: Sequence[Picture],
        script: dict[str, Any] | None,
        rng: random.Random,
        max_tokens: int | None = None,
        **more: Any,
    ) -> Request:
        """A request that is right; `more` goes to `Request` where it has such a field."""
        known = {name: more.pop(name) for name in ("path", "cut_after", "hang_up") if name in more}
        body = self._body(messages, script, max_tokens or rng.randint(1, 12)) | more
        return Request(kind, body, **known, **self._counts(messages, pictures, script))

    def _body(self, messages: Any, script: Any, max_tokens: int = 4) -> dict[str, Any]:
        body = {"model": self._model, "messages": messages, "max_tokens": max_tokens}
        body |= {"temperature": 0, "ignore_eos": True}
        return body if script is None else body | {"script": script}

    def _counts(
        self, messages: Any, pictures: Sequence[Picture], script: dict[str, Any] | None
    ) -> dict[str, Any]:
        names = ("keep_ratio", "visual_token_budget")
        amount = {name: script[name] for name in names if script and name in script}
        amount = amount or {"keep_ratio": self._keep_ratio}
        sizes = [picture.size for picture in pictures]
        counts = [self._expected.before_and_after(size, **amount) for size in sizes]
        text = self._expected.tokens_beside(messages, sizes)
        return {
            "prompt_tokens": text + sum(kept for _, kept in counts),
            "pruned": tuple((before, kept) for before, kept in counts if kept < before),
        }

    def _text(self, rng: random.Random) -> dict[str, Any]:
        """A question; every other one has been asked before."""
        text = rng.choice(QUESTIONS)
        if rng.random() < 0.5:
            text += f" {rng.getrandbits(32)}"
        return {"type": "text", "text": text}
