"""Most memory that vLLM's dummy takes at start-up, which it keeps from the KV cache, by server.

    python benchmarks/startup_memory.py [--context 32768] [--pixels 3211264] [--json FILE]

A Qwen2.5-VL with random weights, whose dummy is a video that fills the context. Stock vLLM encodes
it; the plugin also selects from it, or has it pruned where the server bounds keep ratios.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from vllm_script.benchmarks.checkpoints import write
from vllm_script.benchmarks.common import machine, markdown, parser_of, peak_bytes, repeatable

SERVERS: dict[str, dict[str, Any] | None] = {
    "stock": None,
    "script": {},
    "script, at most half kept": {"max_keep_ratio": 0.5},
}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--context", type=int, default=32_768, help="of the model, in tokens")
    parser.add_argument("--pixels", type=int, default=3_211_264, help="of a frame at most")
    parser.add_argument("--json", type=Path, help="file to add a line to")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), "qwen2.5-vl")
        for path in Path(folder).glob("*preprocessor_config.json"):
            size = {"shortest_edge": 3136, "longest_edge": args.pixels}
            path.write_text(json.dumps(json.loads(path.read_text()) | {"size": size}))
        for name, script in SERVERS.items():
            print(f"{name} ...", file=sys.stderr)
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found[name] = pool.submit(measure, folder, script, args.context).result()
    rows = [(name, f"{n}", f"{peak / 2**20:.0f}") for name, (n, peak) in found.items()]
    print(markdown(("server", "rows of the dummy", "peak, MiB"), rows))
    if args.json:
        about = {"machine": machine(), **repeatable(("vllm", "torch")), "rows and bytes": found}
        with args.json.open("a", encoding="utf-8") as file:
            file.write(json.dumps(about) + "\n")


def measure(model: str, script: dict[str, Any] | None, context: int) -> tuple[int, int]:
    """Rows that the model makes of the dummy, and most bytes allocated in it at a time.

    Args:
        script: settings of the plugin; None for stock vLLM.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.encoder_budget import MultiModalBudget
    from vllm.multimodal.utils import group_and_batch_mm_kwargs

    settings = {"relevance": "embedding", "cache_gb": 0}
    positions = {"max_position_embeddings": context}
    llm = LLM(
        model,
        additional_config={} if script is None else {"script": settings | script},
        hf_overrides={**positions, "text_config": positions},
        load_format="dummy",
        dtype="float32",
        enforce_eager=True,
        max_model_len=context,
        max_num_batched_tokens=4096,
        max_num_seqs=2,
        limit_mm_per_prompt={"image": 1, "video": 1},
    )
    config = llm.llm_engine.vllm_config
    budget = MultiModalBudget(config, MULTIMODAL_REGISTRY, enable_cache=False)
    (_, _, fields), *_ = group_and_batch_mm_kwargs(budget.get_dummy_encoder_profile_inputs())
    rows: list[Any] = []

    def encode(vllm_model: Any) -> int:
        return peak_bytes(lambda: rows.append(vllm_model.embed_multimodal(**fields)))

    (peak,) = llm.apply_model(encode)
    return len(rows[0][0]), peak


if __name__ == "__main__":
    main()
