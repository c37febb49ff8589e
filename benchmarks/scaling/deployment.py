"""What a number of requests a second takes: instances, network and memory, modelled from costs.

An instance does one thing at a time, and is busy for as long as the costs say; queues are not
modelled, but for the share of the time that is left free for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm_script.budget import num_kept

from .costs import Costs


@dataclass(frozen=True)
class Load:
    """What is asked.

    Raises:
        ValueError: an instance may be busy for no share of its time.
    """

    requests_per_s: float
    images: int
    """Of a request, each of which nobody has seen."""
    visual_tokens: int
    """Of an image, without pruning."""
    text_tokens: int
    """Of a prompt, without the visual ones."""
    output_tokens: int
    """Of an answer."""
    busy: float = 0.7
    """Share of its time in which an instance may be busy; the rest is for uneven arrivals."""

    def __post_init__(self) -> None:
        if not 0 < self.busy <= 1:
            raise ValueError(f"--busy is {self.busy:g}; give a share above 0 and at most 1")


def load_of(arms: Sequence[dict[str, Any]], **given: Any) -> Load:
    """One request a second as the arms of a results file were asked; `given`: what differs."""
    longest = max(arms, key=lambda line: line["prompt_tokens"])
    visual = round(longest["visual_kv_tokens"])
    asked = Load(1.0, 1, visual, round(longest["prompt_tokens"]) - visual, 0)
    return replace(asked, **{"output_tokens": longest["about"]["output_tokens"]} | given)


@dataclass(frozen=True)
class Deployment:
    """What a load takes at one keep ratio; 1.0 is no pruning."""

    costs: Costs
    load: Load
    keep_ratio: float

    @property
    def kept(self) -> int:
        """Visual tokens that stay of an image, if all of them are patches."""
        tokens = self.load.visual_tokens
        return num_kept(tokens, tokens, keep_ratio=self.keep_ratio) or tokens

    @property
    def prompt_tokens(self) -> int:
        return self.load.text_tokens + self.load.images * self.kept

    @property
    def encoder_ms(self) -> float:
        """What a request takes of an encoder, which also chooses what stays."""
        selection = self.costs.selection_ms if self.keep_ratio < 1 else 0.0
        return self.load.images * (self.costs.encoder_ms + selection)

    @property
    def language_ms(self) -> float:
        """What a request takes of a language model."""
        return self.costs.language_ms(self.prompt_tokens, self.load.output_tokens)

    @property
    def servers(self) -> int:
        """Instances, where each encodes and answers."""
        return self._instances(self.encoder_ms + self.language_ms)

    @property
    def encoders(self) -> int:
        """Encoder instances, where these are apart."""
        return self._instances(self.encoder_ms)

    @property
    def language_models(self) -> int:
        """Language models behind them."""
        return self._instances(self.language_ms)

    @property
    def pair_requests_per_s(self) -> float:
        """The most that one encoder instance and one language model answer together."""
        return 1000 / max(self.encoder_ms, self.language_ms)

    @property
    def row_bytes(self) -> int:
        """Bytes of a request's visual tokens, from an encoder instance to a language model."""
        return self.load.images * self.kept * self.costs.row_bytes

    @property
    def network_bytes_per_s(self) -> float:
        """Bytes of all requests' visual tokens."""
        return self.load.requests_per_s * self.row_bytes

    @property
    def kv_bytes(self) -> int:
        """KV cache of a request when it has been answered."""
        return (self.prompt_tokens + self.load.output_tokens) * self.costs.kv_bytes

    @property
    def kv_bytes_of_instance(self) -> int:
        """KV cache of a language model with as many requests as were measured at a time."""
        return self.costs.at_once * self.kv_bytes

    def _instances(self, milliseconds: float) -> int:
        """Instances that do so much for each request; never more than the share of their time."""
        needed = self.load.requests_per_s * milliseconds / 1000 / self.load.busy
        return math.ceil(round(needed, 9))  # 7 times 0.1 is not 0.7
