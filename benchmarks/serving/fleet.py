"""The servers under test: started when a cell needs them, stopped when the next ones do not.

Two are up at a time, or three, and one is driven: an idle vLLM server uses no processor, but for a
second after its last step, in which its worker looks out for the next one.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import psutil
import torch

from vllm_script.server.launch import VllmServer

from ..common import process_at
from .cells import SCRIPT, STOCK, TOWER, UNUSED

FLAGS: dict[str, tuple[str, ...]] = {STOCK: (), UNUSED: (), SCRIPT: ("--plugin", "script")}
NO_PLUGINS = {"VLLM_PLUGINS": ""}
"""Without plugins vLLM does not even import ours: stock is vLLM as if it were not installed."""


@dataclass(frozen=True)
class Target:
    """A server that answers."""

    kind: str
    """One of FLAGS, or a method of vLLM's own pruning."""
    root: str
    """Address of the server, without /v1."""
    model: str
    """Name that it serves the model under."""
    processes: tuple[psutil.Process, ...] = ()
    """Processes of the server, where they are ours."""

    def cpu_seconds(self) -> float:
        """Processor time that the server has used."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)


class Fleet:
    """Servers of one model for the length of a `with` block.

    Args:
        model: what `vllm serve` is given.
        flags: arguments of every server.
        urls: kind -> address of servers that are running; then none is started.
        kinds: kind -> its own arguments; all but those of the plugin run without plugins.
    """

    def __init__(
        self,
        model: str,
        flags: Sequence[str],
        urls: Mapping[str, str],
        kinds: Mapping[str, Sequence[str]] = FLAGS,
    ) -> None:
        self._model, self._flags, self._kinds = model, tuple(flags), kinds
        self._running: dict[str, tuple[Target, ExitStack]] = {}
        self._launch = 0
        self._given = {kind: target_at(kind, url) for kind, url in urls.items()}

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self._keep(())

    def provide(
        self, kinds: Iterable[str], launch: int, progress: Callable[[str], None]
    ) -> dict[str, Target]:
        """Servers of these kinds and no others, started anew where `launch` changes.

        Args:
            progress: called with a text while a server starts.
        """
        wanted = sorted(kinds)
        if self._given:
            return {kind: self._given[kind] for kind in wanted}
        self._keep(wanted if launch == self._launch else ())
        self._launch = launch
        for kind in wanted:
            if kind not in self._running:
                self._running[kind] = self._start(kind, progress)
        return {kind: self._running[kind][0] for kind in wanted}

    def _keep(self, kinds: Iterable[str]) -> None:
        for kind in set(self._running) - set(kinds):
            self._running.pop(kind)[1].close()

    def _start(self, kind: str, progress: Callable[[str], None]) -> tuple[Target, ExitStack]:
        def waiting(seconds: float) -> None:
            progress(f"starting {kind}, {seconds:.0f} s")

        flags = (*self._kinds[kind], *self._flags)
        env = {} if kind in (UNUSED, SCRIPT, TOWER) else NO_PLUGINS
        stack = ExitStack()
        server = stack.enter_context(VllmServer(self._model, *flags, env=env, progress=waiting))
        first = process_at(server.port)
        return target_at(kind, server.url, (first, *first.children(recursive=True))), stack


def default_flags(on_cpu: bool) -> list[str]:
    """Arguments of every server that is started here, before the user's own."""
    flags = ["--served-model-name", "bench"]
    if on_cpu:
        flags.append("--enforce-eager")  # else each compiles for minutes
        return flags if _multiplies_bfloat16() else [*flags, "--dtype", "float32"]
    return [*flags, "--gpu-memory-utilization", "0.45"]  # two of them share the GPU


def _multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it; without, float32 is several times faster."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def target_at(kind: str, url: str, processes: tuple[psutil.Process, ...] = ()) -> Target:
    """The server of that kind that answers at an address, with or without /v1."""
    root = url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}
    request = urllib.request.Request(f"{root}/v1/models", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return Target(kind, root, json.load(reply)["data"][0]["id"], processes)
