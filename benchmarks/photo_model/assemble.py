"""Put a trained vision tower and a trained language model together as an InternVL.

    python benchmarks/photo_model/assemble.py --tower DINOV2 --language LLAMA --out runs/photo/start

DINOV2 is a folder that transformers' Dinov2Model loads, LLAMA a folder or GGUF file of a Llama.
What lies between them, the connector, starts from random numbers. vLLM serves OUT like any InternVL
in transformers' format, and train.py goes on from it.
"""

from __future__ import annotations

from pathlib import Path

from vllm_script.benchmarks.common import ending_well, parser_of
from vllm_script.benchmarks.photo_model.checkpoint import assemble
from vllm_script.benchmarks.photo_model.language import read_language
from vllm_script.benchmarks.photo_model.tower import read_tower


def main() -> None:
    parser = parser_of(__doc__)
    add = parser.add_argument
    add("--tower", type=Path, required=True, help="folder of a Dinov2Model")
    add("--language", type=Path, required=True, help="folder or GGUF file of a Llama")
    add("--out", type=Path, required=True)
    add("--layers", type=int, default=10, help="of the tower, from its start (default 10)")
    small = "224 pixels and 64 visual tokens instead of 336 and 576: for a training on a CPU"
    add("--cut", action="store_true", help=small)
    add("--seed", type=int, default=0, help="of the connector")
    args = parser.parse_args()
    side, patches_per_token = (224, 4) if args.cut else (336, 1)
    with ending_well(ValueError, OSError, ImportError):
        tower = read_tower(args.tower, args.layers, side)
        model, tokenizer = read_language(args.language)
        assemble(args.out, tower, model, tokenizer, patches_per_token, args.seed)
        print(f"written to {args.out}")


if __name__ == "__main__":
    main()
