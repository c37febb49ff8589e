"""The command line: flags in vLLM's own parser, folded into `additional_config["script"]`.

    vllm serve MODEL --plugin script --keep-ratio 0.11

Any of these flags switches pruning on. They win over the same keys of --additional-config.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from vllm_script.config import RELEVANCE_SOURCES, ScriptConfig
from vllm_script.patches.engine_args import tell_who_asks, wrap_flags
from vllm_script.pruning import MODES

from .aliases import repository_of, served_names

# Flag -> key of additional_config["script"].
_KEYS = {
    "keep_ratio": "keep_ratio",
    "visual_token_budget": "visual_token_budget",
    "script_mode": "mode",
    "script_relevance": "relevance",
    "script_clip_model": "clip_model",
    "min_keep_ratio": "min_keep_ratio",
    "max_keep_ratio": "max_keep_ratio",
    "script_cache_gb": "cache_gb",
    "script_explain": "explain",
    "script_shadow": "shadow",
}


def install() -> None:
    """Add the flags to vLLM's argument parsers and have them reach the engine."""
    wrap_flags(_add_cli_args, _from_cli_args)


def refuse(problem: str) -> None:
    """Have whoever asks for pruning, by a flag or in the library, be told `problem`, one line."""
    tell_who_asks(problem, _add_cli_args(lambda parser: parser), errors_are_one_line)


def _add_cli_args(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_cli_args(parser: Any) -> Any:
        parser = original(parser)
        group = parser.add_argument_group(
            "Script",
            "Prune the visual tokens of images before prefill (vllm-script). Any of these flags "
            "switches it on.",
        )
        group.add_argument(
            "--plugin", choices=["script"], help="Prune images, with the settings below."
        )
        amount = group.add_mutually_exclusive_group()
        amount.add_argument(
            "--keep-ratio",
            type=_checked("keep_ratio", float),
            metavar="RATIO",
            help="Part of an image's visual tokens to keep, in (0, 1]; 1.0 keeps all. "
            "Default 0.11: eight of nine are removed.",
        )
        amount.add_argument(
            "--visual-token-budget",
            type=_checked("visual_token_budget", int),
            metavar="TOKENS",
            help="Visual tokens to keep of every image, instead of a ratio.",
        )
        group.add_argument(
            "--script-mode",
            choices=list(MODES),
            help="How tokens are chosen. Default: script.",
        )
        group.add_argument(
            "--script-relevance",
            choices=list(RELEVANCE_SOURCES),
            help="What relevance to the question comes from: the CLIP that the vision tower came "
            "from, the language model's input embeddings, or none (one selection for all "
            "questions). Default: auto, clip where its text side is found, else embedding.",
        )
        group.add_argument(
            "--script-clip-model",
            metavar="MODEL",
            help="CLIP checkpoint that the vision tower came from, a folder or repository. "
            "Default: a folder `clip` inside the model, or the known one for the tower.",
        )
        group.add_argument(
            "--min-keep-ratio",
            type=_checked("min_keep_ratio", float),
            metavar="RATIO",
            help="Smallest keep ratio that a request may ask for. Default: 0.01.",
        )
        group.add_argument(
            "--max-keep-ratio",
            type=_checked("max_keep_ratio", float),
            metavar="RATIO",
            help="Largest part of an image that a request may keep; memory is profiled for it. "
            "Default: 1.0.",
        )
        group.add_argument(
            "--script-cache-gb",
            type=_checked("cache_gb", float),
            metavar="GIB",
            help="Memory for what is known of images before pruning, so that another question "
            "about one is cheap: this much for encoder features on every worker (of the GPU's, "
            "allocated at start-up), and up to this much for preprocessed pixels in every API "
            "server. 0 switches both off. Default: 1.",
        )
        group.add_argument(
            "--script-explain",
            action="store_const",
            const=True,
            help="Answer at /v1/script/explain, which draws what is kept of the pictures in a chat "
            "request and which text that depends on, and at /v1/script/stats. Default: off.",
        )
        group.add_argument(
            "--script-shadow",
            type=_checked("shadow", float),
            metavar="SHARE",
            help="Leave answers unpruned, and for this share of the chat requests, in (0, 1], "
            "report on /metrics how the first token would change if they were pruned. "
            "Default: off.",
        )
        return parser

    return add_cli_args


def _checked(key: str, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type that says what ScriptConfig says."""

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = text
        try:
            ScriptConfig.from_dict({key: value})
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return parse


def _from_cli_args(original: Callable[..., Any]) -> Callable[..., Any]:
    def from_cli_args(cls: type, args: argparse.Namespace) -> Any:
        folded = fold_flags(getattr(args, "additional_config", None), args)
        if "script" not in folded:
            return original(cls, args)
        with errors_are_one_line():
            ScriptConfig.from_dict(folded["script"])
            if repository := repository_of(args.model):
                names = served_names(args.model, repository, args.served_model_name)
                args.model, args.served_model_name = repository, names
        # Further API servers are processes of their own that start from these arguments.
        args.additional_config = folded
        engine_args = original(cls, args)
        engine_args.script_errors = errors_are_one_line
        return engine_args

    return from_cli_args


def fold_flags(additional_config: dict[str, Any] | None, args: Any) -> dict[str, Any]:
    """`additional_config` with the flags in `args` that were given written into its `script`."""
    given = {key: getattr(args, flag, None) for flag, key in _KEYS.items()}
    given = {key: value for key, value in given.items() if value is not None}
    base = dict(additional_config or {})
    if given or getattr(args, "plugin", None):
        script = dict(base.get("script") or {})
        if given.keys() & {"keep_ratio", "visual_token_budget"}:
            script.pop("keep_ratio", None)
            script.pop("visual_token_budget", None)
        base["script"] = {**script, **given}
    return base


@contextlib.contextmanager
def errors_are_one_line() -> Iterator[None]:
    """End the program with a usage error where the library would raise one."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        print(f"vllm: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
