"""What an image, a token and a row cost, as a results file of serve_bench.py has measured it.

    python benchmarks/serve_bench.py      # runs/serve/results.jsonl

Under the most load of the file a server is never idle, so what a request takes of it is one second
by the requests/s. Less what the encoder and the selection took by their own timers, that is the
language model's part, which is fitted over the arms, whose prompts differ in length:

    decode_ms * output tokens + prefill_ms * n + attention_ms * n^2        of n prompt tokens

None of these is below 0. One that would be is 0, and the others are fitted without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from ..checkpoints import NAMED, SIZES


@dataclass(frozen=True)
class Costs:
    """Milliseconds that one instance is busy, and bytes."""

    encoder_ms: float
    """Of an image in the vision tower and the projector."""
    selection_ms: float
    """Of an image that is pruned, to choose its rows."""
    prefill_ms: float
    """Of a prompt's token in the language model."""
    attention_ms: float
    """Of a prompt's pair of tokens; 0 where it is a part of `prefill_ms`."""
    decode_ms: float
    """Of an answer's token, with all else that does not depend on the prompt's length."""
    at_once: int
    """Requests that a language model had at a time when this was measured."""
    row_bytes: int
    """Of a visual token between an encoder instance and a language model."""
    kv_bytes: int
    """Of a token in the KV cache."""

    def language_ms(self, prompt_tokens: float, output_tokens: float) -> float:
        """What a request takes of a language model."""
        prefill = self.prefill_ms * prompt_tokens + self.attention_ms * prompt_tokens**2
        return prefill + self.decode_ms * output_tokens


def busiest(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The arms of the cell with most requests at a time, of the lines of a results file.

    Raises:
        ValueError: there is no such cell, or it has a single arm, or no encoder timer.
    """
    known = [line for line in lines if line["concurrency"] and not line["again"]]
    most = max(known, key=lambda line: line["concurrency"], default={"cell": None})
    arms = [line for line in known if line["cell"] == most["cell"]]
    if len({line["prompt_tokens"] for line in arms}) < 2:
        raise ValueError("the results need a load with arms of two prompt lengths; measure again")
    if not any(line["split_ms"]["encoder"] for line in arms):
        raise ValueError("the results have no arm that is pruned, and none that timed the encoder")
    return arms


def costs_of(
    arms: Sequence[dict[str, Any]], keep_ratio: float, value_bytes: int, **given: Any
) -> Costs:
    """Costs of the arms of one load.

    Args:
        keep_ratio: of the arm whose selection counts.
        value_bytes: of a value in rows and in the KV cache: 2 of 16 bits.
        given: fields that are known better.

    Raises:
        ValueError: no arm has that keep ratio, or nobody knows the model's shape.
    """
    about = arms[0]["about"]
    encoder = float(np.mean([line["split_ms"]["encoder"] for line in arms if _timed(line)]))
    language = [1000 / line["requests_per_s"] - encoder - _selection_ms(line) for line in arms]
    decode, prefill, attention = fitted([line["prompt_tokens"] for line in arms], language)
    found: dict[str, Any] = {
        "encoder_ms": encoder,
        "prefill_ms": prefill,
        "attention_ms": attention,
        "decode_ms": decode / about["output_tokens"],
        "at_once": arms[0]["concurrency"],
    }
    if "selection_ms" not in given:
        chosen = {line["keep_ratio"]: _selection_ms(line) for line in arms if line["keep_ratio"]}
        if keep_ratio not in chosen:
            known = ", ".join(f"{ratio:g}" for ratio in chosen)
            raise ValueError(
                f"keep ratio {keep_ratio:g} was not measured, {known} were; give --selection-ms"
            )
        found["selection_ms"] = chosen[keep_ratio]
    if not {"row_bytes", "kv_bytes"} <= given.keys():
        found["row_bytes"], found["kv_bytes"] = bytes_of(about["model"], value_bytes)
    return Costs(**found | given)


def fitted(lengths: Sequence[float], milliseconds: Sequence[float]) -> tuple[float, float, float]:
    """What a request takes whatever its length, of a token, and of a pair of tokens.

    Of two lengths pairs are not told from tokens, and are 0.
    """
    powers = range(min(3, len(set(lengths))))
    matrix = np.array([[length**power for power in powers] for length in lengths], float)
    scales = matrix.max(axis=0)  # 1, tokens and their pairs are of very different sizes
    constant, token, *pair = (nnls(matrix / scales, np.array(milliseconds))[0] / scales).tolist()
    return constant, token, pair[0] if pair else 0.0


def bytes_of(model: str, value_bytes: int) -> tuple[int, int]:
    """Bytes of a row, and of a token in the KV cache, of a model that checkpoints/ can write.

    Args:
        model: its name, as the results have it: "cpu-108m, random weights".

    Raises:
        ValueError: it is another one.
    """
    name = model.partition(",")[0]
    if name not in NAMED:
        raise ValueError(f"the shape of {name} is not known; give --row-bytes and --kv-bytes")
    family, sizes = NAMED[name]
    width, _, layers, heads = SIZES[family][sizes].language
    kv_width = width // heads * (SIZES[family][sizes].kv_heads or heads)
    return width * value_bytes, 2 * layers * kv_width * value_bytes


def _timed(line: dict[str, Any]) -> bool:
    """Whether the server of an arm timed its encoder."""
    return line["split_ms"]["encoder"] is not None


def _selection_ms(line: dict[str, Any]) -> float:
    """Milliseconds that selection took of a request; 0 where none was made."""
    return line["split_ms"]["selection"] or 0.0
