"""The command `vllm-script`, whose subcommands are modules beside this one.

Only the module of the subcommand that is given is imported: `doctor` must run where vLLM, and the
packages that come with it, are missing or broken.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

COMMANDS = {
    "doctor": ("doctor", "say whether this installation can prune, for a bug report"),
    "tune": ("tune_command", "find the keep ratio, mode and relevance for a loss that you accept"),
    "playground": ("playground_command", "see what is kept of your own picture, in a browser"),
    "proxy": ("proxy_command", "serve encoder instances and language models at one address"),
    "explain": ("explain_command", "draw what is kept of a picture for a question"),
}
"""Subcommand -> its module, with `add_arguments(parser)` and `run(args)`, which returns the exit
status; and what it does."""


def main() -> None:
    """Entry point of the command; mistakes end it with status 1 and a line that says what to do."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a started server is stopped
    args = _parser().parse_args()
    try:
        status = args.run(args)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"vllm-script: error: {error}")
    if status:
        sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllm-script", description="Query-conditioned visual-token pruning for vLLM."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if sys.argv[1:2] == [name]:
            chosen = importlib.import_module(f".{module}", __package__)
            chosen.add_arguments(command)
            command.set_defaults(run=chosen.run)
    return parser


if __name__ == "__main__":
    main()
