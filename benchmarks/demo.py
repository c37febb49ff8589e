"""Serve a small LLaVA-NeXT with pruning and ask it about a picture.

    make demo

Starts `vllm serve script-demo --plugin script --keep-ratio 0.11`, asks two questions about a
picture through the openai client, and shows what pruning did to each; then asks the same without
pruning. script-demo is the model that comes with the package: it knows synthetic scenes such as
scene.png. With `--model` another model is asked about a photograph (scikit-learn's temple), and
with `--random` one with random weights and LLaVA-NeXT's real geometry, written on the spot: there
token counts and times mean something and answers do not.
"""

from __future__ import annotations

import argparse
import base64
import io
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import sklearn.datasets
import torch
from PIL import Image
from transformers import AutoConfig

from vllm_script.config import ScriptConfig
from vllm_script.families import family_of, pruned_name
from vllm_script.frontend.queries import item_queries
from vllm_script.plan import make_plan
from vllm_script.server.aliases import SCRIPT_DEMO, repository_of
from vllm_script.server.launch import VllmServer

CLEAR = "\r\033[K" if sys.stdout.isatty() else ""
ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTOGRAPH = pathlib.Path(sklearn.datasets.__file__).parent / "images" / "china.jpg"
PHOTOGRAPH_QUESTIONS = ["What is on the roof of the temple?", "How many people are in the picture?"]
SCENE = pathlib.Path(__file__).with_name("scene.png")
SCENE_QUESTIONS = ["What color is the cross?", "Which digit is yellow?"]
# Enough of a language model that prefill is what the unpruned prompt waits for.
RANDOM_MODEL = ["--width", "512", "--layers", "8", "--vision-width", "256", "--vision-layers", "4"]


@dataclass(frozen=True)
class Reply:
    """One streamed answer."""

    text: str
    first_token: float
    """Seconds from sending the request to the first streamed token."""
    prompt_tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=SCRIPT_DEMO, help="checkpoint to serve")
    parser.add_argument("--random", action="store_true", help="serve one with random weights")
    parser.add_argument("--keep-ratio", type=float, default=0.11)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped
    model = str(random_model()) if args.random else args.model
    picture, questions = PHOTOGRAPH, PHOTOGRAPH_QUESTIONS
    if model == SCRIPT_DEMO:
        picture, questions = SCENE, SCENE_QUESTIONS
    flags = ["--plugin", "script", "--keep-ratio", str(args.keep_ratio)]
    print(f"$ vllm serve {model} {' '.join(flags)}")
    other_flags = ["--enforce-eager", "--served-model-name", "demo"]
    env = {"VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB, where there is no GPU
    with VllmServer(model, *flags, *other_flags, env=env, progress=show_waiting) as server:
        print(f"{CLEAR}the server is up, its log is {server.log_path}")
        demonstrate(server, repository_of(model) or model, args.keep_ratio, picture, questions)


def random_model() -> pathlib.Path:
    """A LLaVA-NeXT checkpoint with random weights, written if it is not there yet."""
    folder = ROOT / ".models" / "llava-next-random"
    if not (folder / "model.safetensors").exists():
        print(f"writing a checkpoint with random weights to {folder.relative_to(ROOT)} ...")
        script = pathlib.Path(__file__).with_name("tiny_model.py")
        subprocess.run([sys.executable, script, folder, *RANDOM_MODEL], check=True)
    return folder


def show_waiting(seconds: float) -> None:
    line = f"starting the server ... {seconds:3.0f} s (about 30 on two cores)"
    if sys.stdout.isatty():
        print(f"\r{line}", end="", flush=True)
    elif round(seconds) % 10 == 0:
        print(line, flush=True)


def demonstrate(
    server: VllmServer, model: str, keep_ratio: float, path: pathlib.Path, questions: list[str]
) -> None:
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
    picture = Image.open(path).convert("RGB")
    copies = unseen_copies(picture)
    ask(client, next(copies), "Warm up.", {})
    ask(client, next(copies), "Warm up.", {"keep_ratio": 1.0})
    before, after = visual_tokens(model, picture, keep_ratio)
    print(f"{path.name}, {picture.width}x{picture.height}\n")
    for question in questions:
        pruned = ask(client, next(copies), question, {})
        whole = ask(client, next(copies), question, {"keep_ratio": 1.0})
        removed = whole.prompt_tokens - pruned.prompt_tokens
        if removed != before - after:
            sys.exit(f"expected {before} -> {after} visual tokens, but {removed} were removed")
        (conditioned_on,) = item_queries([message(picture, question)])["image"]
        print(f"question             {question}")
        print(f"pruning looked for   {conditioned_on}")
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


def message(image: Image.Image, question: str) -> dict[str, Any]:
    data = io.BytesIO()
    image.save(data, "PNG")
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    image_part = {"type": "image_url", "image_url": {"url": url}}
    return {"role": "user", "content": [image_part, {"type": "text", "text": question}]}


def ask(client: openai.OpenAI, image: Image.Image, question: str, script: dict[str, Any]) -> Reply:
    messages = [message(image, question)]
    started = time.perf_counter()
    stream = client.chat.completions.create(
        model="demo",
        messages=messages,  # type: ignore[arg-type]
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


def visual_tokens(model: str, image: Image.Image, keep_ratio: float) -> tuple[int, int]:
    """Visual tokens of the image before and after pruning, from its size alone."""
    config = AutoConfig.from_pretrained(model)
    family = family_of(pruned_name(config.architectures[0]))
    fields = {"image_sizes": torch.tensor([image.height, image.width])}
    layout = family.item_layout(config, "image", fields)
    plan = make_plan(ScriptConfig(keep_ratio=keep_ratio), ())
    kept = plan.num_kept(*layout.counts)
    return layout.num_placeholders, kept or layout.num_placeholders


if __name__ == "__main__":
    main()
