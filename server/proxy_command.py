"""`vllm-script proxy`: one address for encoder instances and language models.

    vllm-script proxy --encoder http://e:8000 --server http://l:8000

It needs no GPU and no vLLM in its process. Give each option as often as there are instances.
"""

from __future__ import annotations

import argparse
from typing import Any

from .proxy import Proxy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command is given to its parser."""
    add = parser.add_argument
    many: dict[str, Any] = dict(action="append", required=True, type=_address, metavar="URL")
    add("--encoder", help="address of an encoder instance", **many)
    add("--server", help="address of a language model's server", **many)
    add("--host", default="127.0.0.1", help="address to serve at (default 127.0.0.1)")
    add("--port", type=int, default=8000, help="port to serve at (default 8000)")


def run(args: argparse.Namespace) -> int:
    """Serve until it is stopped."""
    import uvicorn

    uvicorn.run(Proxy(args.encoder, args.server).app, host=args.host, port=args.port)
    return 0


def _address(text: str) -> str:
    """An instance's address, with or without /v1."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text} is no address; give one such as http://host:8000")
    return text.rstrip("/").removesuffix("/v1")
