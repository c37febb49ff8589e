"""The command line: flags in vLLM's own parser, folded into `additional_config["script"]`.

    vllm serve MODEL --plugin script --keep-ratio 0.11

Any of these flags switches pruning on. They win over the same keys of --additional-config. The
flags, with their help, are made from the settings (vllm_script/config.py).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vllm_script.config import AMOUNTS, SETTINGS, ScriptConfig
from vllm_script.patches.engine_args import tell_who_asks, wrap_flags
from vllm_script.setting import Choice, Lines, Number, Setting, Switch

from .aliases import repository_of, served_names

PLUGIN_MEANING = "Prune visual tokens; every other flag here implies it."

# Prints nothing, and keeps vLLM's formatter from writing "(default: None)" behind the help.
_NO_DEFAULT = "%(default).0s"


def install() -> None:
    """Add the flags to vLLM's argument parsers and have them reach the engine."""
    wrap_flags(_add_cli_args, _from_cli_args)


def refuse(problem: str) -> None:
    """Have whoever asks for pruning, by a flag or in the library, be told `problem`, one line."""
    tell_who_asks(problem, add_flags, errors_are_one_line)


def _add_cli_args(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_cli_args(parser: Any) -> Any:
        parser = original(parser)
        add_flags(parser)
        return parser

    return add_cli_args


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the group `Script` of `vllm serve --help`."""
    group = parser.add_argument_group(
        "Script",
        "Prune the visual tokens of images before prefill (vllm-script). Any of these flags "
        "switches it on.",
    )
    group.add_argument("--plugin", choices=["script"], help=PLUGIN_MEANING + _NO_DEFAULT)
    add_settings(group, SETTINGS)


def add_settings(group: Any, settings: Iterable[Setting]) -> None:
    """Add the flags of those settings that have one; `given_settings` reads them.

    Only one of the settings that say how much is kept can be given.
    """
    amount = group.add_mutually_exclusive_group()
    for setting in settings:
        if setting.flag is not None:
            _add_setting(amount if setting.key in AMOUNTS else group, setting, setting.flag)


def _add_setting(group: Any, setting: Setting, flag: str) -> None:
    name, _, metavar = flag.partition(" ")
    default = f" (default: {setting.shown_default})" if setting.shown_default else ""
    text = f"{setting.description}{default}".replace("%", "%%") + _NO_DEFAULT
    match setting.values:
        case Switch():
            group.add_argument(name, action="store_const", const=True, help=text)
        case Number(integer=integer):
            check = _checked(setting.key, int if integer else float)
            group.add_argument(name, type=check, metavar=metavar, help=text)
        case Choice(names=names):
            group.add_argument(name, choices=list(names), metavar=metavar, help=text)
        case Lines():
            group.add_argument(name, type=_lines, metavar=metavar, help=text)
        case _:
            group.add_argument(name, metavar=metavar, help=text)


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


def _lines(path: str) -> list[str]:
    """An argparse type: the lines of a file that are not empty."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def given_settings(args: Any) -> dict[str, Any]:
    """The settings whose flags were given, by key."""
    values = {
        setting.key: getattr(args, _attribute(setting.flag), None)
        for setting in SETTINGS
        if setting.flag is not None
    }
    return {key: value for key, value in values.items() if value is not None}


def _attribute(flag: str) -> str:
    """The name under which argparse leaves the value of `flag`."""
    return flag.split()[0].removeprefix("--").replace("-", "_")


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
    given = given_settings(args)
    base = dict(additional_config or {})
    if given or getattr(args, "plugin", None):
        script = dict(base.get("script") or {})
        if given.keys() & set(AMOUNTS):
            for key in AMOUNTS:
                script.pop(key, None)
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
