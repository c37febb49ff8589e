"""Endpoints and questions without a server."""

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest

from vllm_script.benchmarks.accuracy.questions import Item
from vllm_script.benchmarks.accuracy.settings import WHOLE
from vllm_script.benchmarks.tuning.losses import Losses
from vllm_script.benchmarks.tuning.search import Search

SECRET = "right"


@dataclass
class Answering:
    """An endpoint that is right where it is told to be; `right`: setting -> bool [n]."""

    right: dict
    model: str = "tiny"
    stop_after: int | None = None

    def __post_init__(self):
        self.asked = []

    async def ask(self, item, setting):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise ConnectionError("stopped")
        self.asked.append((item.id, str(setting)))
        await asyncio.sleep(0)
        answer = SECRET if self.right[setting][int(item.id)] else "wrong"
        return {"answer": answer, "prompt_tokens": 20 + int(1000 * setting.keep_ratio)}


@pytest.fixture
def items():
    """items(n) -> n questions about one picture each."""
    return lambda number: [
        Item(str(index), "?", (SECRET,), "all", b"picture") for index in range(number)
    ]


@pytest.fixture
def searched(tmp_path, items):
    """searched(endpoint, limit, ...) -> a search that has ended."""

    def searched(endpoint, limit, error=0.05, path=tmp_path / "answers.jsonl"):
        losses = Losses(endpoint, path, concurrency=8)
        settings = [setting for setting in endpoint.right if setting != WHOLE]
        search = Search(losses, items(len(endpoint.right[WHOLE])), settings, limit, error)
        asyncio.run(search.run())
        return search

    return searched


@pytest.fixture
def answering():
    """answering(right) -> an endpoint; see `Answering`."""
    return Answering


@pytest.fixture
def lossy():
    """lossy(settings, loss of each, n) -> right or wrong of n questions, 90 % of them unpruned."""

    def lossy(settings, chance, number, seed=0):
        rng = np.random.default_rng(seed)
        whole = rng.random(number) < 0.9
        right = {WHOLE: whole}
        for setting in settings:
            changed = rng.random(number) < chance(setting) / 0.9
            right[setting] = whole & ~changed
        return right

    return lossy
