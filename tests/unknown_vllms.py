"""Run `register` in vLLMs that it does not know, one after the other, each in a process of its own.

python unknown_vllms.py  ->  a JSON object: name of the vLLM -> what was seen; and what the command
`vllm serve` ends with in one of them
"""

import contextlib
import importlib.resources
import inspect
import io
import json
import logging
import os
import sys

os.environ["VLLM_PLUGINS"] = ""  # `register` is called below, and by nobody else

import vllm
from vllm.engine import arg_utils
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.entrypoints.cli.serve import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser

from vllm_script import plugin
from vllm_script.server import flags  # noqa: F401  so that every module of vLLM's is loaded by now

MODEL = str(importlib.resources.files("vllm_script") / "script_demo")


def other_version():
    vllm.__version__ = "0.99.0"


def no_version():
    del vllm.__version__


def model_config_made_elsewhere():
    EngineArgs.make_model_config = EngineArgs.create_model_config
    del EngineArgs.create_model_config


def model_config_made_of_something():
    original = EngineArgs.create_model_config
    EngineArgs.create_model_config = lambda self, something=None: original(self)


def flags_added_elsewhere():
    del EngineArgs.from_cli_args
    EngineArgs.add_arguments = EngineArgs.add_cli_args
    original, AsyncEngineArgs.add_cli_args = AsyncEngineArgs.add_cli_args, staticmethod(lambda p: p)
    assert original


def settings_called_otherwise():
    vllm.__version__ = "1.0.0"
    del EngineArgs.__dataclass_fields__["additional_config"]


def no_models_to_register():
    del type(vllm.ModelRegistry).register_model


def engine_args_renamed():
    arg_utils.Arguments = arg_utils.EngineArgs
    del arg_utils.EngineArgs


def engine_args_moved():
    sys.modules["vllm.engine.arg_utils"] = None
    del vllm.engine.arg_utils


def flags_of_our_names():
    """vLLM has got a flag that is called like one of ours, with another meaning."""
    vllm.__version__ = "0.99.0"
    original = EngineArgs.add_cli_args

    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--keep-ratio", type=int, default=7)
        return original(parser)

    EngineArgs.add_cli_args = add_cli_args


def state():
    """The identity of everything in vLLM's modules and classes, by name."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "vllm" and module is not None:
            for attribute, value in list(vars(module).items()):
                found[f"{name}:{attribute}"] = id(value)
                if inspect.isclass(value) and value.__module__.split(".")[0] == "vllm":
                    members = {f"{value.__qualname__}.{k}": id(v) for k, v in vars(value).items()}
                    found.update({f"{value.__module__}:{k}": v for k, v in members.items()})
    return found | {f"architecture {name}": 0 for name in vllm.ModelRegistry.get_supported_archs()}


def parser():
    parser = FlexibleArgumentParser(prog="vllm")
    make_arg_parser(parser.add_subparsers().add_parser("serve"))
    return parser


def parsed():
    """What users who never ask see of the flags: the help, and what is parsed."""
    values = vars(parser().parse_args(["serve", "m", "--max-model-len", "7"]))
    with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
        parser().parse_args(["serve", "--help=all"])
    return repr(sorted(values.items(), key=str)), text.getvalue()


def attempt(action):
    """[kind of the exception, its text or exit status, what was written to stderr]."""
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            action()
        except (Exception, SystemExit) as error:
            return [type(error).__name__, str(error), errors.getvalue()]
    return ["none", "", errors.getvalue()]


def command_line(*words):
    return attempt(lambda: EngineArgs.from_cli_args(parser().parse_args(["serve", *words])))


def library(**settings):
    return attempt(lambda: EngineArgs(MODEL, **settings).create_engine_config())


def report(change):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    for name in (None, "vllm", "vllm.script"):
        logging.getLogger(name).addHandler(handler)
    change()
    moved = sys.modules["vllm.engine.arg_utils"] is None or not hasattr(arg_utils, "EngineArgs")
    flags_work = not moved and hasattr(EngineArgs, "from_cli_args")
    parsed_before, stock = flags_work and parsed(), library()
    before = state()  # when all that vLLM imports late has been imported
    outcome = attempt(lambda: (plugin.register(), plugin.register()))
    after = state()
    return {
        "register": outcome,
        "logged": [record.getMessage() for record in records if record.levelno >= logging.INFO],
        "changed": sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k)),
        "flags work": flags_work,
        "moved": moved,
        "parsed as before": (flags_work and parsed()) == parsed_before,
        "library as before": library() == stock,
        "--plugin": flags_work and command_line("m", "--plugin", "script", "--keep-ratio", "0.2"),
        "--keep-ratio": flags_work and command_line("m", "--keep-ratio", "0.2"),
        "--script-explain": flags_work and command_line("m", "--script-explain"),
        "--additional-config": flags_work
        and command_line("m", "--additional-config", '{"script": {"keep_ratio": 0.2}}'),
        "additional_config": library(additional_config={"script": {}}),
    }


def serve():
    """What `vllm serve` of another version ends with, whose plugins vLLM loads itself."""
    from vllm.entrypoints.cli.main import main

    other_version()
    del os.environ["VLLM_PLUGINS"]
    sys.argv = ["vllm", "serve", "script-demo", "--plugin", "script", "--keep-ratio", "0.11"]
    return attempt(main)


def in_a_process(action, *arguments):
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            answer = action(*arguments)
        except BaseException as error:
            answer = {"the test itself": repr(error)}
        os.write(writer, json.dumps(answer).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = json.load(pipe)
    os.wait()
    return answer


VLLMS = (
    *(other_version, no_version, model_config_made_elsewhere, model_config_made_of_something),
    *(flags_added_elsewhere, settings_called_otherwise, no_models_to_register),
    *(engine_args_renamed, engine_args_moved, flags_of_our_names),
)

if __name__ == "__main__":
    importlib.import_module("vllm.model_executor.models")
    seen = {change.__name__: in_a_process(report, change) for change in VLLMS}
    print(json.dumps(seen | {"vllm serve": in_a_process(serve)}))
