"""`vllm-script playground`: see pruning on your own picture, in a browser.

    vllm-script playground

It starts `vllm serve MODEL --script-explain` on this machine, opens the page in the browser, and
stops the server when you press Ctrl-C. Flags after `--` go to the server.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import sys
import webbrowser

from PIL import Image

from .aliases import SCRIPT_DEMO, check_known
from .explain_client import ExplainClient
from .launch import VllmServer, show_waiting

PATIENCE = 3600
"""Seconds to wait for the server: a large model may have to be fetched first."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command is given to its parser."""
    add = parser.add_argument
    add("--model", default=SCRIPT_DEMO, help=f"model to load (default {SCRIPT_DEMO})")
    add("--api-key", help="key that the page then asks for (default: it needs none)")
    add("--port", type=int, help="port to serve at (default: one that is free)")
    add("--no-open", action="store_true", help="print the address, and open no browser")
    add("server_flags", nargs="*", metavar="FLAG", help="of vllm serve, after --")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        RuntimeError: the server does not start, or ends by itself.
    """
    from vllm.platforms import current_platform

    check_known(args.model)
    env = {"VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")}  # GiB
    flags = ["--script-explain", "--enable-prompt-tokens-details"]
    if args.model == SCRIPT_DEMO or current_platform.is_cpu():  # there compiling takes longer
        flags.append("--enforce-eager")
    flags += ["--api-key", args.api_key] if args.api_key else []
    flags += args.server_flags
    try:
        with VllmServer(
            args.model,
            *flags,
            env=env,
            start_timeout=PATIENCE,
            progress=show_waiting(args.model),
            port=args.port,
        ) as server:
            if sys.stderr.isatty():
                print(file=sys.stderr)
            print("warming up ...", file=sys.stderr, flush=True)
            _warm_up(server.url, args.api_key)
            address = server.url.removesuffix("/v1") + "/script"
            print(f"the playground is at {address}; Ctrl-C stops it", flush=True)
            if not args.no_open:
                webbrowser.open(address)
            server.wait()
    except KeyboardInterrupt:
        print()
    return 0


def _warm_up(url: str, api_key: str | None) -> None:
    """Have a new server do once what it does at its first picture, so that no visitor waits for it.

    A model that takes no pictures refuses it, and so does a server whose key was given behind `--`;
    then the first visitor waits.
    """
    data = io.BytesIO()
    Image.new("RGB", (224, 224), "gray").save(data, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    client = ExplainClient(url, api_key, None)
    with contextlib.suppress(ValueError):
        for script in ({}, {"keep_ratio": 1.0}):
            client.explain([picture], "Warm up.", script)
