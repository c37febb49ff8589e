"""`vllm-script doctor [MODEL]`: whether this installation can prune, on one screen.

    ok     vLLM            0.33.0 (supported: 0.32.x and 0.33.x)
    wrong  probes          2 of 231 do not hold: ...
    -      model           not checked, for vLLM cannot be imported

It can be pasted into a bug report: of folders the last component is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from vllm_script import __version__
from vllm_script.config import ScriptConfig
from vllm_script.patches.probing import SUPPORTED, SUPPORTED_VLLM, is_supported

from .aliases import SCRIPT_DEMO, check_known, repository_of
from .unfamiliar import UnfamiliarModel

MOST_SHOWN = 4
"""Probes that do not hold, of which the report says what is wrong; of the others it says how many
there are."""

COLUMNS = 100


class Wrong(Exception):
    """A check found something wrong; the text says what it is and what to do."""


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


class Report:
    """The lines of the report, printed one by one.

    Args:
        without_paths: takes the user's folders out of a text.
    """

    def __init__(self, without_paths: Callable[[str], str]) -> None:
        self._without_paths = without_paths
        self._wrong: list[str] = []

    def check(self, name: str, find: Callable[[], str]) -> bool:
        """Print what `find` returns or raises, not what else it prints; whether all is well."""
        with _quiet() as terminal:
            if terminal.isatty():
                print(f"checking {name} ...", end="\r", file=terminal, flush=True)
            try:
                word, text = "ok", find()
            except Wrong as error:
                word, text = "wrong", str(error)
            except Exception as error:  # of any package that is looked at
                word, text = "wrong", _first_line(error)
            if terminal.isatty():
                print(" " * COLUMNS, end="\r", file=terminal, flush=True)
        if word == "wrong":
            self._wrong.append(name)
        self._print(word, name, text)
        return word == "ok"

    def note(self, name: str, find: Callable[[], str]) -> None:
        """Print what `find` returns as something to know, or why it cannot be known."""
        with _quiet():
            try:
                text = find()
            except Exception as error:  # of any model that vLLM knows
                text = f"not found out: {_first_line(error)}"
        self._print("-", name, text)

    def skip(self, name: str, why: str) -> None:
        """Print that something could not be checked."""
        self._print("-", name, why)

    def close(self) -> int:
        """Print the last line, which sums up; the exit status."""
        if not self._wrong:
            print("\nAll is well: pruning works here.")
            return 0
        verb = "thing is" if len(self._wrong) == 1 else "things are"
        print(f"\n{len(self._wrong)} {verb} wrong: {', '.join(self._wrong)}.")
        return 1

    def _print(self, word: str, name: str, text: str) -> None:
        start = f"{word:<7}{name:<14}"
        for line in self._without_paths(text).splitlines():
            margin = " " * len(start)
            filler = textwrap.TextWrapper(COLUMNS, start, margin, break_on_hyphens=False)
            print(filler.fill(line), flush=True)
            start = margin


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Drop what this process and its children print; yields a way to the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(2), "w") as terminal:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield terminal
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(saved, start=1):
                os.dup2(copy, number)
                os.close(copy)


class PathRemover:
    """Takes folders out of texts: of each path the last component stays.

    Args:
        model: what the user gave, whose folder may have a name with spaces.
    """

    _PATH = re.compile(r"(?<![\w/:.~-])~?/(?:[^\s/'\"(),:;]+/)*([^\s/'\"(),:;]*)")

    def __init__(self, model: str | None) -> None:
        self._known = {str(pathlib.Path.home()): "~"}
        if model is not None and (folder := pathlib.Path(model)).exists():
            self._known |= {
                str(folder.resolve()): folder.resolve().name,
                str(folder.absolute()): folder.absolute().name,
            }
            if "/" in model:
                self._known[model.rstrip("/")] = folder.resolve().name

    def __call__(self, text: str) -> str:
        """The text without folders."""
        for path, name in sorted(self._known.items(), key=lambda item: -len(item[0])):
            text = text.replace(path, name)
        return self._PATH.sub(r"\1", text)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _reason(error: Exception) -> str:
    """What an error of vLLM's configuration says, without what pydantic writes around it."""
    lines = str(error).strip().splitlines()
    values = (line.partition("Value error, ")[2].partition(" [type=")[0] for line in lines)
    return next((value for value in values if value), lines[0])


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
        problem = _first_line(error)
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


class ModelUnderTest:
    """What pruning would do with a model, found as `vllm serve` finds it when it starts.

    Args:
        model: what the user gave: a folder, a repository or a short name.
        trust_remote_code: as in vllm serve.
    """

    def __init__(self, model: str, trust_remote_code: bool) -> None:
        self._model, self._trust_remote_code = model, trust_remote_code
        self._config: Any = None

    def name(self) -> str:
        """Name and architecture; makes vLLM's configuration, with every check of the plugin's."""
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        try:
            self._config = self._arguments({"script": {}}).create_engine_config()
        except (ValueError, RuntimeError) as error:
            raise Wrong(_reason(error)) from None
        runner = "V2" if self._config.use_v2_model_runner else "V1"
        architecture = self._config.model_config.architecture.removeprefix("Script")
        return f"{self._shown}: {architecture}, model runner {runner}"

    def unfamiliar(self) -> UnfamiliarModel | None:
        """The model as stock vLLM has it, where that takes pictures and no family serves it."""
        from vllm_script.families import FAMILIES

        with (
            _quiet(),
            contextlib.suppress(Exception),
        ):  # the check of its name has said what is wrong
            config = self._arguments({}).create_model_config()
            if config.is_multimodal_model and config.architecture not in FAMILIES:
                return UnfamiliarModel(config)
        return None

    def relevance(self) -> str:
        """Where relevance would come from."""
        settings = self._settings()
        source: dict[str, str] = {
            "clip": f"clip, with {self._clip(settings)}",
            "embedding": "embedding, the language model's own for the words of the question",
            "lm-attention": "lm-attention, the language model's first layer",
        }
        return source.get(settings.relevance, "none: one selection for all questions")

    @property
    def has_clip(self) -> bool:
        """Whether a request may take relevance from CLIP."""
        return self._settings().clip_model is not None

    def polarity(self) -> str:
        """What a high cosine of patch and text means in this CLIP, configured and measured.

        It is measured with the tower of the CLIP checkpoint, at the layer that the model reads.
        """
        import torch
        from transformers import CLIPModel

        from vllm_script.relevance.checkpoint import read
        from vllm_script.relevance.clip import ClipRelevance
        from vllm_script.relevance.polarity import measure_polarity

        clip_model = self._settings().clip_model
        assert clip_model is not None, "asked of a model that has a CLIP"
        model = CLIPModel.from_pretrained(clip_model, dtype=torch.float32).eval()
        layer = self._config.model_config.hf_config.vision_feature_layer
        vision = model.config.vision_config

        def states_of(pixels: torch.Tensor) -> torch.Tensor:
            states = model.vision_model(pixels, output_hidden_states=True).hidden_states
            patches: torch.Tensor = states[layer][:, 1:]
            return patches

        clip = ClipRelevance(model.config, read(clip_model).weights, torch.float32, "cpu")
        sizes = vision.image_size, vision.patch_size
        measured = measure_polarity(clip, clip_model, states_of, *sizes)
        if measured.is_right is False:
            raise Wrong(str(measured))
        return str(measured)

    def pruning(self) -> str:
        """The line that a server logs when it starts."""
        from vllm_script.checks import summary

        settings = self._settings()
        shown = replace(settings, clip_model=settings.clip_model and self._clip(settings))
        return summary(shown, self._config.model_config.hf_config)

    def _arguments(self, additional_config: dict[str, Any]) -> Any:
        """vLLM's `EngineArgs` for the model."""
        from vllm.engine.arg_utils import EngineArgs

        return EngineArgs(
            model=repository_of(self._model) or self._model,
            additional_config=additional_config,
            trust_remote_code=self._trust_remote_code,
        )

    def _settings(self) -> ScriptConfig:
        """The settings in force, with relevance resolved."""
        return ScriptConfig.of(self._config.model_config)

    @property
    def _shown(self) -> str:
        folder = pathlib.Path(self._model)
        return folder.resolve().name if folder.exists() else self._model

    def _clip(self, settings: Any) -> str:
        clip = pathlib.Path(settings.clip_model or "")
        model = pathlib.Path(self._config.model_config.model)
        if model.resolve() in clip.resolve().parents:
            return f"the {clip.name} folder of the model"
        return clip.name if clip.exists() else str(settings.clip_model)
