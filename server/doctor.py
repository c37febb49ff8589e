"""`vllm-script doctor [MODEL]`: whether this installation can prune, on one screen.

    ok     vLLM            0.33.0 (supported: 0.32.x and 0.33.x)
    wrong  probes          2 of 231 do not hold: ...
    -      model           not checked, for vLLM cannot be imported

It can be pasted into a bug report: of folders the last component is shown.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from functools import partial

from vllm_script import __version__
from vllm_script.patches.probing import SUPPORTED, SUPPORTED_VLLM, is_supported

from .aliases import SCRIPT_DEMO, check_known
from .model_under_test import ModelUnderTest
from .report import PathRemover, Report, Wrong, first_line

MOST_SHOWN = 4
"""Probes that do not hold, of which the report says what is wrong; of the others it says how many
there are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this command is given to its parser."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        type=_known,
        help=f"model to look at: a folder, a repository, or a short name such as {SCRIPT_DEMO}",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="as in vllm serve")


def _known(model: str) -> str:
    try:
        check_known(model)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return model


def run(args: argparse.Namespace) -> int:
    """Check, and print each finding when it is known.

    Returns:
        0 where all is well, 1 where something is wrong.
    """
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    report = Report(without_paths=PathRemover(args.model))
    print(f"vllm-script {__version__} doctor\n")
    report.check("Python", _python)
    report.check("vLLM", _vllm)
    for package in ("torch", "triton", "transformers"):
        report.check(package, partial(_package, package))
    loaded = report.check("plugin", _plugin)
    report.check("device", _device)
    report.check("kernels", _kernels)
    if not _is_usable():
        for name in ("probes", "model")[: 1 if args.model is None else 2]:
            report.skip(name, "not checked, for vLLM cannot be used")
        return report.close()
    report.check("probes", _probes)
    if args.model is not None and not loaded:
        report.skip("model", "not checked, for vLLM does not load the plugin")
    elif args.model is not None:
        model = ModelUnderTest(args.model, args.trust_remote_code)
        if report.check("model", model.name):
            report.check("relevance", model.relevance)
            if model.has_clip:
                report.check("polarity", model.polarity)
            report.check("pruning", model.pruning)
        elif unfamiliar := model.unfamiliar():
            for name in ("relative", "layout", "positions", "tower"):
                report.note(name, getattr(unfamiliar, name))
            report.skip("what next", "Add a family, in vllm_script/families/README.md")
    return report.close()


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


_ENGINE = "vllm.engine.arg_utils"
"""The module of vLLM's that everything of ours begins with."""


def _vllm() -> str:
    if importlib.util.find_spec("vllm") is None:
        raise Wrong(f"is not installed; install vllm {SUPPORTED_VLLM[-1]}.x")
    problem, version = "", "of unknown version"
    try:
        version = importlib.import_module("vllm").__version__
        importlib.import_module(_ENGINE)
    except Exception as error:  # a build that does not fit the machine raises anything
        problem = first_line(error)
    if is_supported(version) and not problem:
        return f"{version} (supported: {SUPPORTED})"
    problem = problem and f"; cannot be imported: {problem}"
    raise Wrong(f"{version} (supported: {SUPPORTED}){problem}")


def _is_usable() -> bool:
    """Whether `_vllm` could import vLLM, of whatever version."""
    return _ENGINE in sys.modules


def _package(name: str) -> str:
    try:
        package = importlib.import_module(name)
    except ModuleNotFoundError:
        if name == "triton" and _device_type() == "cpu":
            return "not installed; only GPUs need it"
        raise Wrong(f"is not installed; pip install {name}") from None
    return str(package.__version__)


def _plugin() -> str:
    found = importlib.metadata.entry_points(group="vllm.general_plugins", name="script")
    if not any(point.value == "vllm_script.plugin:register" for point in found):
        raise Wrong("vLLM does not see it: its entry point is missing; install vllm-script again")
    chosen = os.environ.get("VLLM_PLUGINS")
    if chosen is not None and "script" not in chosen.split(","):
        raise Wrong("VLLM_PLUGINS leaves it out; add script to it, or unset it")
    return "vLLM loads it"


def _device_type() -> str:
    """Where the kernels would run: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _device() -> str:
    import torch

    if _device_type() == "cpu":
        ours = f"CPU, {os.cpu_count()} cores"
    else:
        indices = range(torch.cuda.device_count())
        names = [
            f"{torch.cuda.get_device_name(i)} (compute capability "
            f"{'.'.join(map(str, torch.cuda.get_device_capability(i)))})"
            for i in indices
        ]
        ours = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    if not _is_usable():
        return ours
    from vllm.platforms import current_platform

    from vllm_script.checks import check_device

    try:
        check_device()
    except ValueError as error:
        raise Wrong(str(error)) from None
    theirs = current_platform.device_type or "no device"
    if theirs != _device_type():
        raise Wrong(f"PyTorch has {ours}, but vLLM found {theirs}: their builds do not fit")
    return f"{ours}; vLLM runs on {theirs}"


def _probes() -> str:
    from vllm_script.checks import OURS, family_probes
    from vllm_script.families import FAMILIES
    from vllm_script.patches import supported
    from vllm_script.patches.probing import misfits

    probes = {**supported.START_UP, **supported.FRONT_END, **supported.WORKER, **OURS}
    for architecture in FAMILIES:
        probes |= family_probes(architecture)
    problems = misfits(probes)
    if not problems:
        return f"{len(probes)} of {len(probes)} hold"
    more = len(problems) - MOST_SHOWN
    lines = [f"{len(problems)} of {len(probes)} do not hold", *problems[:MOST_SHOWN]]
    raise Wrong("\n".join(lines + [f"and {more} more"] * (more > 0)))


def _kernels() -> str:
    from vllm_script.kernels.self_test import self_test

    results = list(self_test(_device_type()))
    lines = [
        f"{result.op:<18}{result.problem or f'{result.detail}, {1e3 * result.seconds:.2f} ms'}"
        for result in results
    ]
    where = "Triton on the GPU" if _device_type() == "cuda" else "PyTorch on the CPU"
    failed = [result.op for result in results if result.problem]
    if failed:
        raise Wrong("\n".join([f"{where}: {', '.join(failed)} failed", *lines]))
    return "\n".join([f"{where}: as float64 has it", *lines])
