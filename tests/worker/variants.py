"""Which variants of the kernels 1,000 random requests need that the warm-up did not compile.

Some come alone, and some with others in a step.

Run by test_warm_up.py in a process of its own, where Triton's interpreter is off. Prints two JSON
objects: by model and GPU, how many variants were warmed up, how many more for a thinned tower,
requests, and what was new in them. For the second no selection in frames is warmed up, to see the
check fail.

    variants.py REQUESTS REQUESTS_OF_THE_SECOND

LLaVA-NeXT and Qwen2.5-VL on an H100 are asked 35 % of it each, other models and GPUs the rest.
"""

import json
import pathlib
import random
import sys
from unittest import mock

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "kernels"))

from launches import WARM_UP, recorded

from vllm_script.config import ScriptConfig
from vllm_script.families.anyres import Anyres
from vllm_script.families.internvl import _image_layout as tiles_layout
from vllm_script.families.internvl import _video_layout as frames_layout
from vllm_script.families.llava_next import _layout as anyres_layout
from vllm_script.families.mrope import layout_of_runs
from vllm_script.families.qwen_vl import _image_layout as grid_layout
from vllm_script.kernels import (
    MAX_TOKENS,
    gather_rows,
    greedy_map,
    largest_relevance,
    query_relevance,
)
from vllm_script.plan import make_plan
from vllm_script.positions import grid_coordinates
from vllm_script.pruning import MODES, PruningParams, run_modes
from vllm_script.pruning.params import GEOMETRIES
from vllm_script.pruning.thinning import Quota, most_distinct_patches, survivors
from vllm_script.worker.encoded_image import EncodedImage
from vllm_script.worker.selector import Selector
from vllm_script.worker.warm_up import compile_kernels

CPU = torch.device("cpu")
CLIP_WIDTH, STATE_WIDTH, TOWER_WIDTH = 768, 1024, 1152
SLOW_IN_TORCH = 300
"""Tokens up to which centred geometry is asked for: PyTorch centres them, and no kernel."""

MOST_TOKENS = 2 * MAX_TOKENS
"""Of an item: the largest image of Qwen2-VL has that many. Selections see MAX_TOKENS at once."""

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


class LmAttention:
    """Scores visual tokens as the class of that name does, without a language model."""

    def __call__(self, visual_tokens, questions):
        return visual_tokens[:, 0].float() + len(questions)


class Clip:
    """Scores patches as ClipRelevance does, from embeddings in CLIP's space."""

    visual_projection = torch.nn.Linear(STATE_WIDTH, CLIP_WIDTH, bias=False)

    def __call__(self, states, query):
        patches = torch.empty(len(states), CLIP_WIDTH, dtype=torch.bfloat16)
        return largest_relevance(
            [query_relevance(patches, patches[: len(windows)], -1) for windows in query]
        )


def anyres(rng):
    return anyres_layout(Anyres(336, 14, PINPOINTS), rng.randint(20, 2000), rng.randint(20, 2000))


def grid(rng):
    """An image of Qwen2.5-VL: its shape is its own."""
    rows = rng.randint(1, 128)
    return grid_layout(rows, rng.randint(1, 128))


def frames_of_grid(rng):
    """(frames, height, width) of a video: few frames, or many that are small."""
    side = rng.choice([1, 2, 4, 8, 16, 30])
    most = MOST_TOKENS // side**2
    return rng.randint(1, most if rng.random() < 0.2 else min(most, 64)), side, side


def video(rng):
    return layout_of_runs([grid_coordinates(*(shape := frames_of_grid(rng)), 2.0)], shape[0])


def video_by_frames(rng):
    frames, height, width = frames_of_grid(rng)
    return layout_of_runs([grid_coordinates(1, height, width)] * frames, frames)


def tiles(rng):
    return tiles_layout(rng.randint(1, 13), 256)


def tiles_video(rng):
    return frames_layout(rng.randint(1, 32), 256)


MODELS = {
    "LLaVA-NeXT 7B": (4096, 4096, Clip(), [anyres]),
    "Qwen2.5-VL 7B": (3584, 3584, None, [grid, video]),
    "Qwen3-VL 8B": (4096, 4 * 4096, None, [grid, video_by_frames]),
    "InternVL3 8B": (3584, 3584, None, [tiles, tiles_video]),
}
"""Hidden size, width of a feature, CLIP, and layouts of each model's items."""

GPUS = {"H100": (90, 132), "a 16th of an A100": (80, 14), "L4": (89, 58)}
"""Architecture and multiprocessors."""


def plan_of(rng, layout, clip):
    config = ScriptConfig(
        keep_ratio=rng.choice([rng.uniform(0.01, 0.99), 0.11]),
        mode=rng.choice(list(MODES)),
        relevance=rng.choice(["embedding", "lm-attention", "none"] + ["clip"] * (clip is not None)),
        clip_model="its own",
        params=PruningParams(
            tau_relative=rng.random() < 0.5,
            tau=rng.uniform(0.0, 0.9),
            pool_ratio=rng.uniform(0.1, 1.0),
            geometry=rng.choice(GEOMETRIES) if layout.num_patches <= SLOW_IN_TORCH else "raw",
        ),
    )
    windows = rng.randint(1, 4) if config.relevance == "clip" else 1
    query = tuple(
        tuple(tuple(range(rng.randint(1, 60))) for _ in range(windows))
        for _ in range(rng.choice([1, 1, 3]))
    )
    return make_plan(config, rng.choice([query, query, ()]))


def step_of(rng, maker, clip, states, features, most):
    """Images and plans of a step of one item, or of up to `most`; some have a plan in common."""
    images, plans, num_items = [], [], min(most, rng.choice([1, 1, 2, 3, 10]))
    while len(images) < num_items:
        layout = maker(rng)
        plan = rng.choice([*plans[:2], plan_of(rng, layout, clip)])
        if plan.num_kept(*layout.counts) is not None:
            num_rows = int(layout.rows.max()) + 1
            images.append(EncodedImage(states[:num_rows], features[:num_rows], layout))
            plans.append(plan)
    return images, plans


def thin(rng, states):
    """Thin the vision tower for tiles, an image or frames of any size that a step may have."""
    tiles = rng.choice([1, 1, 2, 5, 16])
    size = rng.randint(2, len(states) // tiles // 2)
    quota = Quota(
        rng.randint(1, size), torch.ones(tiles, size, dtype=torch.bool), rng.random() < 0.5
    )
    patches = rng.choice([1, 2])
    own = states[: tiles * size * patches].view(tiles, size, patches, -1)
    survivors(most_distinct_patches(own), quota)


def new_variants(model, gpu, num_requests, seed=0):
    hidden_size, feature_width, clip, makers = MODELS[model]
    rng = random.Random(seed)
    states = torch.zeros(MOST_TOKENS, STATE_WIDTH if clip else 0, dtype=torch.bfloat16)
    features = torch.zeros(MOST_TOKENS, feature_width, dtype=torch.bfloat16)
    tower = torch.zeros(MOST_TOKENS, TOWER_WIDTH, dtype=torch.bfloat16)
    table = torch.zeros(64, hidden_size, dtype=torch.bfloat16)
    selector = Selector(hidden_size, lambda ids: table.index_select(0, ids), clip)
    selector._lm_attention = LmAttention()
    with recorded(*GPUS[gpu]) as variants:
        model_and_device = (hidden_size, feature_width, clip, torch.bfloat16, CPU, "auto")
        compile_kernels(*model_and_device)
        whole = len(variants)
        compile_kernels(*model_and_device, TOWER_WIDTH)
        warm, num_asked, new = len(variants), 0, {}
        while num_asked < num_requests:
            left = num_requests - num_asked
            images, plans = step_of(rng, rng.choice(makers), clip, states, features, left)
            num_asked += len(images)
            thin(rng, tower)
            for image, selection in zip(images, selector.select(images, plans), strict=True):
                gather_rows(image.features, selection.kept)
            for name, key in list(variants)[warm + len(new) :]:
                new[f"{name} {key}"] = [
                    f"request {num_asked}, {image.layout.num_patches} tokens in "
                    f"{image.layout.num_frames} frames, {plan.mode}"
                    for image, plan in zip(images, plans, strict=True)
                ]
    return {"warm": whole, "thinned": warm - whole, "requests": num_asked, "new": new}


def some_rows(tasks):
    """As `run_modes`. Kernels that do not run pick the first row of the step for every image."""
    return [kept.clamp(min=0) for kept in run_modes(tasks)]


def without_frames(*args, floors=None, **kwargs):
    return greedy_map(*args, **kwargs)


def found_by(warm_up_map, num_requests, is_asked):
    """New variants of each model on each GPU that is asked, by name.

    Args:
        warm_up_map: the greedy MAP that is warmed up.
        is_asked: whether a model on a GPU is, given whether it is one of the two largest shares.
    """
    found = {}
    with mock.patch.object(WARM_UP, "greedy_map", warm_up_map):
        for model in MODELS:
            for gpu in GPUS:
                if gpu == "H100" or model == "Qwen2.5-VL 7B":
                    is_large = gpu == "H100" and model in ("LLaVA-NeXT 7B", "Qwen2.5-VL 7B")
                    if is_asked(is_large):
                        asked = int((0.35 if is_large else 0.075) * num_requests)
                        found[f"{model} on {gpu}"] = new_variants(model, gpu, asked)
    return found


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    with (
        mock.patch("vllm_script.worker.warm_up.kernels_run", lambda device: True),
        mock.patch("vllm_script.worker.selector.run_modes", some_rows),
    ):
        everything = found_by(greedy_map, int(sys.argv[1]), lambda is_large: True)
        left_out = found_by(without_frames, int(sys.argv[2]), lambda is_large: is_large)
    print(json.dumps([everything, left_out]))
