"""Would it pay to encode pictures of one shape together, and would their rows stay the same?

    python benchmarks/encoder_batch.py [--models cpu-20m ...] [--most 4] [--json FILE]

The plugin encodes the images of a step one by one, so that an image and a plan give the same rows
whatever else is running. Here vLLM's own tower and projector, with random weights, take equal
pictures alone and together. Rows are compared bit by bit with those of the picture alone, and with
those of a batch of always the same size, whose other places have other pictures or the same. On a
CPU times are those of its cores, which other work does not count into.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.multimodal.inputs import MultiModalKwargsItem
from vllm.multimodal.utils import group_and_batch_mm_items
from vllm.renderers import ChatParams, renderer_from_config

from vllm_script.benchmarks.checkpoints import written
from vllm_script.benchmarks.common import machine, markdown, parser_of, repeatable

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Rows = Sequence[torch.Tensor]
HEADER = [
    "model",
    "pictures together",
    "ms a picture",
    "times alone",
    "rows as alone",
    "repeatable",
]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--models", nargs="+", default=["cpu-20m", "internvl-20m", "qwen2.5-vl-20m"]
    )
    parser.add_argument("--size", type=int, default=672, help="side of a picture in pixels")
    parser.add_argument("--most", type=int, default=4, help="pictures together at most")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("--json", type=Path, help="file to add a line to")
    args = parser.parse_args()
    rows: list[list[Any]] = []
    for model in args.models:
        print(f"{model}: pictures of {args.size}x{args.size} ...", file=sys.stderr)
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            settings = (written(model), args.size, args.most, args.turns, args.threads)
            rows += [[model, *row] for row in pool.submit(measure, *settings).result()]
    shown = [
        [model, str(number), f"{ms:.1f}", f"{ratio:.2f}", _words(alone), _words(among)]
        for model, number, ms, ratio, alone, among in rows
    ]
    print(markdown(HEADER, shown))
    if args.json:
        about = {"machine": f"{machine()}, {args.threads} threads", "size": args.size}
        line = about | repeatable(("vllm", "torch")) | {"columns": HEADER, "rows": rows}
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _words(equal: bool) -> str:
    return "equal" if equal else "differ"


def measure(
    model: str, size: int, most: int, turns: int, threads: int
) -> list[tuple[int, float, float, bool, bool]]:
    """Of each number of pictures together, one row of the table but for the model.

    Args:
        size: side of a picture in pixels.
        most: pictures together at most.
        turns: times that all is timed, in one order and then in the other.
        threads: of a CPU.
    """
    embed, pictures = encoder_of(model, size, most)
    torch.set_num_threads(threads)
    batches = {number: _together(pictures[:number]) for number in range(1, most + 1)}
    seconds: dict[int, list[float]] = {number: [] for number in batches}
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    with torch.inference_mode():
        for turn in range(turns + 1):
            for number in list(batches) if turn % 2 else reversed(batches):
                begun = clock()
                embed(**batches[number])
                if DEVICE == "cuda":
                    torch.cuda.synchronize()
                if turn:  # the first does not count
                    seconds[number].append((clock() - begun) / number)
        alone = [embed(**_together([picture]))[0] for picture in pictures]
        found = []
        for number, batch in batches.items():
            ratios = [own / one for own, one in zip(seconds[number], seconds[1], strict=True)]
            is_alone = all(map(torch.equal, embed(**batch), alone))
            among = _among(embed, pictures, number)
            found.append((number, 1e3 * median(seconds[number]), median(ratios), is_alone, among))
    return found


def _among(
    embed: Callable[..., Rows], pictures: Sequence[MultiModalKwargsItem], number: int
) -> bool:
    """Whether a picture has the same rows at every place of a batch, whatever is beside it."""
    own, *others = pictures[:number]
    batches = [[*others[:place], own, *others[place:]] for place in range(number)]
    rows = [embed(**_together(batch))[place] for place, batch in enumerate(batches)]
    rows.append(embed(**_together([own] * number))[0])
    return all(torch.equal(rows[0], each) for each in rows[1:])


def _together(pictures: Sequence[MultiModalKwargsItem]) -> dict[str, Any]:
    """The arguments that vLLM has for pictures of one batch."""
    batch: dict[str, Any]
    ((_, batch),) = group_and_batch_mm_items(pictures, device=DEVICE)
    return batch


def encoder_of(
    model: str, size: int, number: int
) -> tuple[Callable[..., Rows], list[MultiModalKwargsItem]]:
    """Stock vLLM's encoder of a model, and some pictures as its processor makes them."""
    config = EngineArgs(
        model, dtype="auto" if DEVICE == "cuda" else "float32", enforce_eager=True
    ).create_engine_config()
    with set_current_vllm_config(config), TemporaryDirectory() as folder:
        init_distributed_environment(1, 0, f"file://{folder}/ranks", 0, "gloo")
        initialize_model_parallel(1)
        with mock.patch("torch.accelerator.empty_cache"):  # vLLM's CPU worker replaces it, too
            encoder: Any = get_model(vllm_config=config)
    conversations: Any = []
    for seed in range(number):
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
        picture = {"type": "image_pil", "image_pil": Image.fromarray(pixels)}
        conversations.append([{"role": "user", "content": [picture]}])
    renderer = renderer_from_config(config)
    _, prompts = renderer.render_chat(conversations, ChatParams(), skip_mm_cache=True)
    return encoder.embed_multimodal, [prompt["mm_kwargs"]["image"][0] for prompt in prompts]


if __name__ == "__main__":
    main()
