"""Checkpoints with random weights, in the folder layout of the published ones, of every family.

They have the real configuration classes, processors and chat-template structure, so vLLM serves
them like the real models: token counts, positions, caches and timings mean something, answers do
not. Weights are a function of family, sizes and seed.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from . import gemma, glm, internvl, kimi, llama4, llava, mistral, qwen_vl
from .parts import Clip, Sizes, Stack

WRITERS: dict[str, Callable[[Path, int, Sizes], None]] = {
    "llava-next": llava.write_llava_next,
    "llava-1.5": llava.write_llava_1_5,
    "llava-onevision": llava.write_llava_onevision,
    "qwen2-vl": qwen_vl.write_qwen2_vl,
    "qwen2.5-vl": qwen_vl.write_qwen2_5_vl,
    "qwen3-vl": qwen_vl.write_qwen3_vl,
    "qwen3-vl-moe": qwen_vl.write_qwen3_vl_moe,
    "qwen3.5": qwen_vl.write_qwen3_5,
    "qwen3.5-moe": qwen_vl.write_qwen3_5_moe,
    "glm4.1v": glm.write_glm4_1v,
    "glm4.6v": glm.write_glm4_6v,
    "internvl": internvl.write_internvl,
    "internvl-chat": internvl.write_internvl_chat,
    "internvl3.5": partial(internvl.write_internvl, language="qwen3"),
    "internvl3.5-chat": partial(internvl.write_internvl_chat, language="qwen3"),
    "interns1": internvl.write_interns1,
    "mistral3": mistral.write_mistral3,
    "ministral3": mistral.write_ministral3,
    "pixtral": mistral.write_pixtral,
    "llava-next-video": llava.write_llava_next_video,
    "granite-vision": llava.write_granite_vision,
    "gemma3": gemma.write_gemma3,
    "gemma4": gemma.write_gemma4,
    "llama4": llama4.write_llama4,
    "kimi-vl": kimi.write_kimi_vl,
}
TINY = Sizes(Stack(64, 128, 2, 2), Stack(64, 128, 2, 2), tile=84)
"""Sizes for tests."""
TINY_LLAVA = replace(
    TINY, vision=Stack(64, 128, 2, 4), clip=Clip(Stack(64, 128, 2, 4), 0, 64, positions=16)
)
CPU_20M = Sizes(Stack(512, 1376, 6, 8), Stack(128, 256, 4, 2), tile=384, grid=6, visual_tokens=2048)
"""Sizes for timing on a CPU: a language model of 20 million parameters, the rest in proportion."""
CPU_CLIP = Clip(Stack(256, 512, 4, 4), vocabulary=512, projection=256)
LLAVA_20M = replace(CPU_20M, tile=336, vocabulary=512, clip=CPU_CLIP, streamed=True)
LLAVA_NEXT = {
    "tiny": TINY_LLAVA,
    # Enough of a language model that prefill is what an unpruned prompt waits for.
    "demo": Sizes(Stack(512, 1024, 8, 16), Stack(256, 512, 4, 16), tile=336),
    "cpu-20m": LLAVA_20M,
    # A language model of 108 million parameters.
    "cpu-108m": replace(LLAVA_20M, language=Stack(1024, 2976, 8, 16), vision=Stack(256, 512, 4, 4)),
    # Every tensor of LLaVA-NeXT-7B (Vicuna) and of its CLIP ViT-L/14 at 336 pixels: 15 GB.
    "llava-next-7b": Sizes(
        Stack(4096, 11008, 32, 32),
        Stack(1024, 4096, 23, 16),
        tile=336,
        context=4096,
        vocabulary=32064,
        clip=Clip(Stack(768, 3072, 12, 12), vocabulary=49408, projection=768),
        streamed=True,
    ),
}
QWEN2_5_VL = {
    "tiny": TINY,
    "cpu-20m": CPU_20M,
    # Every tensor of Qwen2.5-VL-3B, and its limits of pixels: 7.5 GB.
    "qwen2.5-vl-3b": Sizes(
        Stack(2048, 11008, 36, 16),
        Stack(1280, 3420, 32, 16),
        tile=0,
        visual_tokens=16384,
        context=32768,
        vocabulary=151936,
        kv_heads=2,
        tied=True,
        streamed=True,
    ),
}
SIZES = {family: {"tiny": TINY, "cpu-20m": CPU_20M} for family in WRITERS} | {
    "llava-next": LLAVA_NEXT,
    "qwen2.5-vl": QWEN2_5_VL,
    "llava-1.5": {"tiny": TINY_LLAVA},
    # A LLaVA-NeXT: no other timings.
    "granite-vision": {"tiny": TINY},
    "gemma4": {"tiny": TINY},
    # Every image is one tile: of 36 visual tokens, and of as many as in the published checkpoints.
    "gemma3": {"tiny": replace(TINY, tile=168), "cpu-20m": replace(CPU_20M, tile=448)},
    # No timings: they count a prompt's text, of which a pruned image has less (no breaks of rows).
    **dict.fromkeys(("mistral3", "ministral3", "pixtral"), {"tiny": TINY}),
    # Internvl in another format, or with a language model of the same sizes: no other timings.
    **dict.fromkeys(
        ("internvl-chat", "internvl3.5", "internvl3.5-chat", "interns1"), {"tiny": TINY}
    ),
    # vLLM on CPUs, where timings are made, has linear attention in bfloat16 alone.
    **dict.fromkeys(("qwen3.5", "qwen3.5-moe"), {"tiny": TINY}),
    # And latent attention without chunks of a prompt.
    "kimi-vl": {"tiny": TINY},
}
"""Family -> name -> sizes. Those with a tile of 336 have LLaVA-NeXT's real geometry: a 672x672
picture is 2,928 visual tokens."""
FAMILY_MODELS = {
    family: "cpu-20m" if family == "llava-next" else f"{family}-20m"
    for family, sizes in SIZES.items()
    if "cpu-20m" in sizes
}
"""Family -> name of its model for timing, whose language model has 20 million parameters."""
NAMED = {
    "cpu-108m": ("llava-next", "cpu-108m"),
    "llava-next-7b": ("llava-next", "llava-next-7b"),
    "qwen2.5-vl-3b": ("qwen2.5-vl", "qwen2.5-vl-3b"),
    **{name: (family, "cpu-20m") for family, name in FAMILY_MODELS.items()},
    "llava-next-random": ("llava-next", "demo"),
}
"""Name -> family and sizes of what `written` writes when it is first asked for."""
MODELS = Path(".models")
"""Where it writes them."""


def write(folder: Path, family: str, sizes: str = "tiny", seed: int = 0) -> None:
    """Write a checkpoint.

    The folder appears when it is complete; what an interrupted call has left is written anew.

    Args:
        family: one of `WRITERS`.
        sizes: one of the family's `SIZES`.

    Raises:
        ValueError: the family has no such sizes.
        FileExistsError: there is something in the folder.
    """
    if sizes not in SIZES[family]:
        known = ", ".join(SIZES[family])
        raise ValueError(f"{family} has no sizes {sizes}; it has {known}")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; choose another folder")
    draft = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # for what a model's constructor draws
        WRITERS[family](draft, seed, SIZES[family][sizes])
    draft.replace(folder)


def written(model: str) -> str:
    """The checkpoint of that name; one with random weights is written if it is not there yet."""
    if model not in NAMED or Path(model).exists():
        return model
    folder = MODELS / model
    if not folder.exists():
        print(f"writing {model} with random weights to {folder} ...", file=sys.stderr)
        write(folder, *NAMED[model])
    return str(folder)
