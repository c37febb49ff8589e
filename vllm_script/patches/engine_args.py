"""`EngineArgs`: where the model's configuration is made, and where vLLM's flags are.

Why: multimodal processors and workers see nothing of the engine's configuration but `model_config`,
so the settings and the name of our architecture must be in it from the start. And a user wants to
write `--keep-ratio 0.11`, not a JSON dictionary.

Upstream: a general plugin may register models and nothing else; only a platform plugin gets the
parser and the configuration (https://github.com/vllm-project/vllm/pull/12432). Carrying flags of
others to the configuration was proposed and closed
(https://github.com/vllm-project/vllm/pull/40824); the open discussion of what plugins need is
https://github.com/vllm-project/vllm/issues/19161. The patched lines:
https://github.com/vllm-project/vllm/blob/v0.33.0/vllm/engine/arg_utils.py#L958-L1994

Remove when: general plugins can add arguments and take part in the making of `ModelConfig`.

These functions are patched in every process of everybody who has the plugin installed. So on a vLLM
that the plugin does not know, nothing is done but `tell_who_asks`: for everybody else the parser,
its help, what is parsed and the configuration are what they were.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from .probing import EXISTS, members
from .wrapping import Wrapper, wrap

PROBES = members(
    "vllm.engine.arg_utils:EngineArgs",
    {
        "create_model_config": (),
        "create_engine_config": EXISTS,
        "add_cli_args": ("parser",),
        "from_cli_args": ("args",),
        **dict.fromkeys(
            (
                *("additional_config", "hf_overrides", "model", "served_model_name"),
                *("worker_extension_cls", "enable_tower_connector_lora", "mm_encoder_only"),
                *("ec_transfer_config", "ec_manager_config", "video_pruning_rate"),
                *("speculative_config", "spec_method", "spec_model", "spec_tokens"),
                "logprobs_mode",
                *("kv_transfer_config", "kv_offloading_size", "kv_offloading_backend"),
                *("mm_encoder_attn_dtype", "mm_encoder_fp8_scale_path", "mm_encoder_tp_mode"),
                "compilation_config",
            ),
            EXISTS,
        ),
    },
) | {"vllm.config.compilation:CompilationConfig.compile_mm_encoder": EXISTS}


def wrap_configs(model_config: Wrapper, engine_config: Wrapper) -> None:
    """Wrap the functions that make the model's configuration and, with it, the engine's."""
    from vllm.engine.arg_utils import EngineArgs

    wrap(EngineArgs, "create_model_config", model_config)
    wrap(EngineArgs, "create_engine_config", engine_config)


def wrap_flags(add_cli_args: Wrapper, from_cli_args: Wrapper) -> None:
    """Wrap the functions that add vLLM's flags to a parser and that read what was parsed."""
    from vllm.engine.arg_utils import EngineArgs

    wrap(EngineArgs, "add_cli_args", add_cli_args)
    wrap(EngineArgs, "from_cli_args", from_cli_args)


def is_asked(arguments: Any) -> bool:
    """Whether engine arguments, or what was parsed of a command line, ask for pruning."""
    options = getattr(arguments, "additional_config", None)
    return isinstance(options, dict) and options.get("script") is not None


def tell_who_asks(
    problem: str,
    add_flags: Callable[[Any], Any],
    one_line: Callable[[], AbstractContextManager[None]],
) -> None:
    """Have whoever asks for pruning be told `problem`, on a vLLM of which nothing is known.

    Whatever is not there, or is not what it was, is left alone.

    Args:
        problem: one line.
        add_flags: adds our flags to an argparse parser.
        one_line: within it an exception ends the program as a usage error does.
    """
    from vllm.engine import arg_utils

    def end() -> None:
        with one_line():
            raise RuntimeError(problem)

    def add_cli_args(original: Callable[..., Any]) -> Callable[..., Any]:
        def add_cli_args(*args: Any, **kwargs: Any) -> Any:
            parser = original(*args, **kwargs)
            with contextlib.suppress(Exception):
                _add_refusing(parser, add_flags, end)
            return parser

        return add_cli_args

    def from_cli_args(original: Callable[..., Any]) -> Callable[..., Any]:
        def from_cli_args(*args: Any, **kwargs: Any) -> Any:
            if any(map(is_asked, (*args, *kwargs.values()))):
                end()
            return original(*args, **kwargs)

        return from_cli_args

    def make_config(original: Callable[..., Any]) -> Callable[..., Any]:
        def make_config(self: Any, *args: Any, **kwargs: Any) -> Any:
            if is_asked(self):
                raise RuntimeError(problem)
            return original(self, *args, **kwargs)

        return make_config

    owner = getattr(arg_utils, "EngineArgs", None)
    wrappers = {
        "add_cli_args": add_cli_args,
        "from_cli_args": from_cli_args,
        "create_engine_config": make_config,
        "create_model_config": make_config,
    }
    for name, wrapper in wrappers.items():
        if callable(getattr(owner, name, None)):
            wrap(owner, name, wrapper)


def _add_refusing(parser: Any, add_flags: Callable[[Any], Any], end: Callable[[], None]) -> None:
    """Add our flags, not shown in the help, each of which ends the program where it is used."""

    class Refuse(argparse.Action):
        def __call__(self, *args: Any) -> None:
            end()

    ours = argparse.ArgumentParser(add_help=False)
    add_flags(ours)
    for action in ours._actions:
        with contextlib.suppress(argparse.ArgumentError):  # vLLM has one of that name: it is its
            parser.add_argument(
                *action.option_strings,
                action=Refuse,
                nargs="?",
                dest="script_refused",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
