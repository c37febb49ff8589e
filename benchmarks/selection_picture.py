"""Draw which visual tokens of scene.png two questions keep: the picture in the README.

    python benchmarks/selection_picture.py OUT.png [--keep-ratio 0.11]

script-demo through transformers in this process, with the plugin's defaults.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import AutoConfig

from vllm_script.benchmarks.accuracy.in_process import DemoModel
from vllm_script.benchmarks.accuracy.variants import DEFAULT, select
from vllm_script.budget import num_kept
from vllm_script.explain.drawing import draw_selection
from vllm_script.families.llava_next import layout_of, patch_views
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of

SCENE = Path(__file__).with_name("scene.png")
QUESTIONS = ("What color is the cross?", "Which digit is yellow?")
CAPTION = 22


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    args = parser.parse_args()
    model = DemoModel(Path(repository_of(SCRIPT_DEMO) or ""))
    image = Image.open(SCENE).convert("RGB")
    sheets = [draw(model, image, question, args.keep_ratio) for question in QUESTIONS]
    below_each_other(sheets).quantize(128).save(args.out, optimize=True)


def draw(model: DemoModel, image: Image.Image, question: str, keep_ratio: float) -> Image.Image:
    """Panels for one question, under a line with the question and the pruned model's answer."""
    encoded = model.encode(np.asarray(image), question)
    total, patches = len(encoded.rows), encoded.patches
    budget = num_kept(total, len(patches), keep_ratio=keep_ratio) or total
    scores = model.relevance(encoded, question, DEFAULT.source)
    tokens = encoded.features[patches]
    kept = select(DEFAULT, tokens, budget, scores, encoded.tiles)
    (answer,) = model.answers(encoded, [encoded.places[kept]])
    relevance = torch.full((len(encoded.states),), torch.nan)
    if scores is not None:
        relevance[patches] = scores
    config = AutoConfig.from_pretrained(repository_of(SCRIPT_DEMO))
    layout = layout_of(config, image.height, image.width)
    views = patch_views(config, layout, image.height, image.width)
    panels = draw_selection(image, views, patches[kept], relevance)
    sheet = Image.new("RGB", (panels.width, panels.height + CAPTION), "white")
    line = f'"{question}"  ->  "{answer}"     {budget} of {total} visual tokens kept'
    ImageDraw.Draw(sheet).text((8, 6), line, fill="black")
    sheet.paste(panels, (0, CAPTION))
    return sheet


def below_each_other(sheets: list[Image.Image]) -> Image.Image:
    """Stack pictures of one width."""
    height = sum(sheet.height for sheet in sheets)
    stack = Image.new("RGB", (sheets[0].width, height), "white")
    top = 0
    for sheet in sheets:
        stack.paste(sheet, (0, top))
        top += sheet.height
    return stack


if __name__ == "__main__":
    main()
