"""`vllm-script explain`: see what is kept of a picture or video, from a shell.

    vllm-script explain --image scene.png --question "What color is the cross?" --out kept.png
    vllm-script explain --video clip.mp4 --question "Who comes in?" --out kept.png --model FOLDER

It starts `vllm serve MODEL --script-explain` for the length of the question, or asks a server that
runs with that flag (`--url`).
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import mimetypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from vllm_script.config import RELEVANCE_SOURCES
from vllm_script.pruning import MODES

from .aliases import SCRIPT_DEMO, check_known
from .explain_client import ExplainClient
from .launch import VllmServer, show_waiting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command is given to its parser."""
    add = parser.add_argument
    repeated: Any = {"type": Path, "action": "append", "default": []}
    add("--image", **repeated, help="picture; may be repeated")
    add("--video", **repeated, help="video; may be repeated")
    add("--question", required=True, help="text of the user's turn")
    add("--out", type=Path, required=True, help="PNG to write; of several OUT-0.png, ...")
    add("--model", help=f"model to load, or one of the server's (default {SCRIPT_DEMO}; the first)")
    add("--url", help="ask this server, started with --script-explain, instead of loading a model")
    add("--api-key", help="key of that server")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--keep-ratio", type=float, help="as in vllm serve")
    amount.add_argument("--visual-token-budget", type=int, help="as in vllm serve")
    add("--script-mode", choices=list(MODES), dest="mode", help="as in vllm serve")
    add("--script-relevance", choices=RELEVANCE_SOURCES, dest="relevance", help="as in vllm serve")


def run(args: argparse.Namespace) -> int:
    """Ask, write the drawings, and print what was done to each picture and video."""
    paths = [*args.image, *args.video]
    if not paths:
        raise ValueError("there is nothing to explain; give --image or --video")
    pictures, videos = list(map(_picture_url, args.image)), list(map(_video_url, args.video))
    outputs = _outputs(args.out, len(paths))
    keys = ("keep_ratio", "visual_token_budget", "mode", "relevance")
    script = {key: getattr(args, key) for key in keys if getattr(args, key) is not None}
    with _client(args) as client:
        items = client.explain(pictures, args.question, script, videos)
    for path, output, item in zip(paths, outputs, items, strict=True):
        output.write_bytes(base64.b64decode(item["png"]))
        print(f"{path}: {describe(item)}")
        print(f"  drawn in {output}")
        if "webp" in item:
            film = output.with_suffix(".webp")
            film.write_bytes(base64.b64decode(item["webp"]))
            print(f"  played in {film}")
    return 0


def describe(image: dict[str, Any]) -> str:
    """What was done to one image or video of the answer, in two lines."""
    frames = f"{image['num_frames']} frames of " if "num_frames" in image else ""
    size = f"{frames}{image['width']}x{image['height']}, {image['visual_tokens']} visual tokens"
    if image["left_whole"]:
        return f"{size}, left whole\n  nothing was chosen, so no text had a say"
    rule = (
        f"budget {image['visual_token_budget']}"
        if image["keep_ratio"] is None
        else f"keep ratio {image['keep_ratio']:g}"
    )
    if image["tower_left"] is not None:
        size = f"{size}, {image['tower_left']} left by the vision tower"
    done = f"{size} -> {image['kept']} ({rule}), mode {image['mode']}"
    query = image["query"]
    if query["source"] == "none":
        return f"{done}\n  chosen without a text"
    read = "" if query["all_read"] else ", of which the two ends were read"
    questions = " and ".join(map(repr, query["questions"]))
    return f"{done}, relevance {image['relevance']}\n  chosen for {questions}{read}"


def _outputs(out: Path, count: int) -> list[Path]:
    if not out.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {out.absolute().parent} to write {out.name} into")
    if count == 1:
        return [out]
    return [out.with_name(f"{out.stem}-{index}{out.suffix}") for index in range(count)]


def _picture_url(path: Path) -> str:
    """The file as it is, for it to be decoded where vLLM decodes what clients send."""
    try:
        with Image.open(path) as image:
            kind = Image.MIME.get(image.format or "", "image/png")
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; give --image the path of a picture") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not a picture that can be read; try PNG or JPEG") from None
    return _data_url(path, kind)


def _video_url(path: Path) -> str:
    """The file as it is; whether it is a video says the server, which has the codecs."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give --video the path of a video")
    return _data_url(path, mimetypes.guess_type(path)[0] or "video/mp4")


def _data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


@contextlib.contextmanager
def _client(args: argparse.Namespace) -> Iterator[ExplainClient]:
    """A client of the server at --url, or of one that lives as long as it is needed."""
    if args.url:
        yield ExplainClient(args.url, args.api_key, args.model)
        return
    model = args.model or SCRIPT_DEMO
    check_known(model)
    env = {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")}  # GiB
    flags = ["--script-explain", "--enforce-eager"]
    if args.relevance:  # lm-attention has to be asked for at the start
        flags += ["--script-relevance", args.relevance]
    with VllmServer(model, *flags, env=env, progress=show_waiting(model)) as server:
        if sys.stderr.isatty():
            print(file=sys.stderr)
        yield ExplainClient(server.url, None, None)
