"""Draw which visual tokens of scene.png two questions keep: the picture in the README.

    python benchmarks/selection_picture.py OUT.png [--keep-ratio 0.11]

It starts `vllm serve script-demo --plugin script --script-explain` for that.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import openai
from PIL import Image, ImageDraw

from vllm_script.benchmarks import demo
from vllm_script.benchmarks.common import ending_well, parser_of
from vllm_script.server.aliases import SCRIPT_DEMO
from vllm_script.server.explain_client import ExplainClient
from vllm_script.server.launch import VllmServer

CAPTION = 22
"""Height in pixels of the line over a drawing."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    args = parser.parse_args()
    flags = ["--plugin", "script", "--keep-ratio", str(args.keep_ratio), "--script-explain"]
    flags += ["--enforce-eager", "--dtype", "float32", "--served-model-name", "demo"]
    picture = Image.open(demo.SCENE).convert("RGB")
    with (
        ending_well(RuntimeError, ValueError),
        VllmServer(SCRIPT_DEMO, *flags, env=demo.ENVIRONMENT, progress=demo.show_waiting) as server,
    ):
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
        explainer = ExplainClient(server.url, None, None)
        sheets = []
        for question in demo.SCENE_QUESTIONS:
            (explained,) = explainer.explain([demo.data_url(picture)], question, {})
            sheets.append(
                captioned(explained, question, demo.ask(client, picture, question, {}).text.strip())
            )
    below_each_other(sheets).quantize(128).save(args.out, optimize=True)


def captioned(explained: dict[str, Any], question: str, answer: str) -> Image.Image:
    """The server's drawing, under a line with the question and the pruned model's answer."""
    drawing = Image.open(io.BytesIO(base64.b64decode(explained["png"])))
    sheet = Image.new("RGB", (drawing.width, drawing.height + CAPTION), "white")
    kept = f"{explained['kept']} of {explained['visual_tokens']} visual tokens kept"
    ImageDraw.Draw(sheet).text((8, 6), f'"{question}"  ->  "{answer}"     {kept}', fill="black")
    sheet.paste(drawing, (0, CAPTION))
    return sheet


def below_each_other(sheets: list[Image.Image]) -> Image.Image:
    """Stack pictures of one width."""
    stack = Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        stack.paste(sheet, (0, top))
        top += sheet.height
    return stack


if __name__ == "__main__":
    main()
