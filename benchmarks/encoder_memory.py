"""Most memory that encoding takes at a time, stock vLLM against the plugin, many requests at once.

    python benchmarks/encoder_memory.py [--keep-ratio 0.11] [--requests 32] [--json FILE]

vLLM's scheduler bounds a step's encoder work in visual tokens, and the plugin has it count those
before pruning; it encodes the images of a step one by one. Each engine runs in a process of its
own, with random weights and one layer of the language model, and what one call allocates is
measured at its peak: the encoder alone, and for the plugin also the whole step with selection and
what is kept.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from vllm_script.benchmarks.checkpoints import written
from vllm_script.benchmarks.common import machine, parser_of, peak_bytes, repeatable
from vllm_script.benchmarks.serving.requests import TEXT

SIZE = 672
"""Side in pixels of a picture: five tiles."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="cpu-108m", help="checkpoint, or a shape to write")
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    parser.add_argument("--requests", type=int, default=32, help="pictures sent at once")
    parser.add_argument(
        "--batched-tokens", type=int, default=8192, help="vLLM's --max-num-batched-tokens"
    )
    parser.add_argument("--json", type=Path, help="file to add a line to")
    args = parser.parse_args()
    model = written(args.model)
    result = {
        "machine": machine(),
        **repeatable(("vllm", "torch")),
        "requests": args.requests,
        "batched_tokens": args.batched_tokens,
    }
    pruned = {"script": {"keep_ratio": args.keep_ratio}}
    runs: dict[str, tuple[dict[str, Any], str]] = {
        "stock, encoder": ({}, "embed_multimodal"),
        "script, encoder": (pruned, "encode"),
        "script, whole step": (pruned, "embed_multimodal"),
    }
    for name, run in runs.items():
        print(f"{name}: {args.requests} pictures of {SIZE}x{SIZE} ...", file=sys.stderr)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            asked = pool.submit(measure, model, *run, args.requests, args.batched_tokens)
            result[name] = calls = asked.result()
        images, peaks = zip(*calls, strict=True)
        print(
            f"{name}: {sum(images)} images in {len(calls)} calls of at most {max(images)}, "
            f"peak {max(peaks) / 2**20:.1f} MiB"
        )
    if args.json:
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")


def measure(
    model: str, config: dict[str, Any], method: str, num_requests: int, batched_tokens: int
) -> list[tuple[int, int]]:
    """(images, most bytes allocated in it at a time) of every call of that method of the model.

    Args:
        config: the engine's --additional-config.
        num_requests: pictures sent at once.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")
    import numpy as np
    from PIL import Image
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        additional_config=config,
        hf_overrides={"text_config": {"num_hidden_layers": 1}},
        load_format="dummy",
        dtype="auto" if torch.cuda.is_available() else "float32",
        enforce_eager=True,
        max_num_batched_tokens=batched_tokens,
        mm_processor_cache_gb=0,
    )
    calls: list[tuple[int, int]] = []

    def watch(vllm_model: Any) -> None:
        original = getattr(vllm_model, method)

        def watched(*args: Any, **kwargs: Any) -> Any:
            results: list[Any] = []
            peak = peak_bytes(lambda: results.append(original(*args, **kwargs)))
            calls.append((1 if method == "encode" else len(results[0]), peak))
            return results[0]

        setattr(vllm_model, method, watched)

    llm.apply_model(watch)
    conversations = []
    for seed in range(num_requests):
        pixels = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        picture = {"type": "image_pil", "image_pil": Image.fromarray(pixels)}
        content = [picture, {"type": "text", "text": TEXT.split("\n")[0]}]
        conversations.append([{"role": "user", "content": content}])
    llm.chat(conversations, SamplingParams(max_tokens=2, ignore_eos=True))
    return calls


if __name__ == "__main__":
    main()
