"""Serve a small LLaVA-NeXT with pruning and ask it about a picture.

    make demo

Starts `vllm serve script-demo --plugin script --keep-ratio 0.11 --script-explain`, asks two
questions about a picture through the openai client, and shows what pruning did to each; then asks
the same without pruning. script-demo is the model that comes with the package: it knows synthetic
scenes such as scene.png. With `--model` another model is asked about a photograph (scikit-learn's
temple), and with `--random` one with random weights and LLaVA-NeXT's real geometry, written on the
spot: there token counts and times mean something and answers do not.
"""

from __future__ import annotations

import base64
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import sklearn.datasets
from PIL import Image

from vllm_script.benchmarks.checkpoints import written
from vllm_script.benchmarks.common import ending_well, parser_of
from vllm_script.server.aliases import SCRIPT_DEMO
from vllm_script.server.explain_client import ExplainClient
from vllm_script.server.launch import VllmServer

PHOTOGRAPH = Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
PHOTOGRAPH_QUESTIONS = ["What is on the roof of the temple?", "How many people are in the picture?"]
SCENE = Path(__file__).with_name("scene.png")
SCENE_QUESTIONS = ["What color is the cross?", "Which digit is yellow?"]
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB, where there is no GPU
IN_PLACE = sys.stdout.isatty()


class Reply(NamedTuple):
    """One streamed answer."""

    text: str
    first_token: float
    """Seconds from sending the request to the first streamed token."""
    prompt_tokens: int


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", default=SCRIPT_DEMO, help="checkpoint to serve")
    parser.add_argument("--random", action="store_true", help="serve one with random weights")
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    args = parser.parse_args()
    with ending_well(RuntimeError, ValueError):
        model = written("llava-next-random") if args.random else args.model
        flags = ["--plugin", "script", "--keep-ratio", str(args.keep_ratio), "--script-explain"]
        print(f"$ vllm serve {model} {' '.join(flags)}")
        flags += ["--enforce-eager", "--served-model-name", "demo"]
        with VllmServer(model, *flags, env=ENVIRONMENT, progress=show_waiting) as server:
            cleared = "\r\033[K" if IN_PLACE else ""
            print(f"{cleared}the server is up, its log is {server.log_path}")
            if model == SCRIPT_DEMO:
                demonstrate(server.url, SCENE, SCENE_QUESTIONS)
            else:
                demonstrate(server.url, PHOTOGRAPH, PHOTOGRAPH_QUESTIONS)


def show_waiting(seconds: float) -> None:
    """Say that the server is starting."""
    line = f"starting the server ... {seconds:3.0f} s (about 30 on two cores)"
    if IN_PLACE:
        print(f"\r{line}", end="", flush=True)
    elif round(seconds) % 10 == 0:
        print(line, flush=True)


def demonstrate(url: str, path: Path, questions: list[str]) -> None:
    """Ask each question with pruning and without, and show both answers.

    Raises:
        RuntimeError: pruning removed another number of tokens than the server says it does.
    """
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    explainer = ExplainClient(url, None, None)
    picture = Image.open(path).convert("RGB")
    copies = unseen_copies(picture)
    ask(client, next(copies), "Warm up.", {})
    ask(client, next(copies), "Warm up.", {"keep_ratio": 1.0})
    print(f"{path.name}, {picture.width}x{picture.height}\n")
    for question in questions:
        pruned = ask(client, next(copies), question, {})
        whole = ask(client, next(copies), question, {"keep_ratio": 1.0})
        (explained,) = explainer.explain([data_url(next(copies))], question, {})
        before, after = explained["visual_tokens"], explained["kept"]
        removed = whole.prompt_tokens - pruned.prompt_tokens
        if removed != before - after:
            raise RuntimeError(
                f"expected {before} -> {after} visual tokens, {removed} were removed"
            )
        print(f"question             {question}")
        print(f"pruning looked for   {', '.join(explained['query']['questions'])}")
        for name, reply, tokens in (("pruned", pruned, after), ("without pruning", whole, before)):
            print(
                f"{name:<20} {tokens:>5} visual tokens, prompt {reply.prompt_tokens:>5}, "
                f"first token after {reply.first_token * 1000:5.0f} ms: {reply.text!r}"
            )
        print(f"{'':<20} {whole.first_token / pruned.first_token:.1f} times as fast\n")


def unseen_copies(picture: Image.Image) -> Iterator[Image.Image]:
    """Copies that differ in one pixel, so that no cache hides what a request costs."""
    for shade in range(256):
        copy = picture.copy()
        copy.putpixel((0, 0), (shade, 0, 0))
        yield copy


def data_url(image: Image.Image) -> str:
    """The picture as a request carries it."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def ask(client: openai.OpenAI, image: Image.Image, question: str, script: dict[str, Any]) -> Reply:
    """Ask about a picture; `script`: settings of pruning for this request alone."""
    content: Any = [
        {"type": "image_url", "image_url": {"url": data_url(image)}},
        {"type": "text", "text": question},
    ]
    started = time.perf_counter()
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": content}],
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"script": script} if script else None,
    )
    text, first_token, prompt_tokens = "", 0.0, 0
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            first_token = first_token or time.perf_counter() - started
            text += chunk.choices[0].delta.content
        if chunk.usage:
            prompt_tokens = chunk.usage.prompt_tokens
    return Reply(text, first_token, prompt_tokens)


if __name__ == "__main__":
    main()
