"""Write a small checkpoint with random weights of a model family other than LLaVA-1.5 and NeXT.

    python benchmarks/tiny_family.py OUT_DIR --family qwen2.5-vl

As tiny_model.py does for LLaVA: the real configuration classes, processors and chat-template
structure, so token counts and positions are those of the published models at this geometry. With
--sizes cpu-20m it is large enough for timing, and its geometry is the published one.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from tiny_families import internvl, llava_next_video, llava_onevision, parts, qwen_vl

FAMILIES = {
    "llava-onevision": llava_onevision.write_llava_onevision,
    "qwen2-vl": qwen_vl.write_qwen2_vl,
    "qwen2.5-vl": qwen_vl.write_qwen2_5_vl,
    "qwen3-vl": qwen_vl.write_qwen3_vl,
    "internvl": internvl.write_internvl,
    "internvl-chat": internvl.write_internvl_chat,
    "llava-next-video": llava_next_video.write_llava_next_video,
}
SIZES = {"tiny": parts.TINY, "cpu-20m": parts.CPU_20M}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out_dir", type=pathlib.Path)
    parser.add_argument("--family", choices=list(FAMILIES), required=True)
    parser.add_argument("--sizes", choices=list(SIZES), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out_dir.mkdir(parents=True, exist_ok=True)
    FAMILIES[args.family](args.out_dir, args.seed, SIZES[args.sizes])


if __name__ == "__main__":
    main()
