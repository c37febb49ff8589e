"""Whether the servers that share a folder with this one have the same settings.

Who writes into the folder, an encoder or a prefill server, leaves its terms there when it starts.
Everybody who reads or writes compares them with its own at each request with an image: a peer may
have been started anew, and otherwise, in the meantime.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..agreement import difference, terms
from ..connectors import shared_folder, write_whole

FILE = "script-terms.json"
"""Name of the file, in the folder that servers share."""

SHARED_FOLDERS = ("RowStore", "ExampleConnector")
"""Connectors that share a folder, of encoder rows and of KV caches."""


class Peers:
    """The terms in the folders that a server shares, if it shares any.

    Args:
        vllm_config: vLLM's `VllmConfig` of a model that is pruned.
    """

    def __init__(self, vllm_config: Any) -> None:
        model_config = vllm_config.model_config
        here = {"server": f"{model_config.model} on {socket.gethostname()}"}
        self._own: dict[str, Any] = {**here, "terms": terms(model_config)}
        self._files: list[Path] = []
        self._agreed: dict[Path, int] = {}
        """When a file was written whose terms are ours, in ns."""
        for folder, writes in _shared_folders(vllm_config):
            self._files.append(folder / FILE)
            if writes:
                folder.mkdir(parents=True, exist_ok=True)
                write_whole(folder / FILE, json.dumps(self._own, indent=1).encode())

    @property
    def are_there(self) -> bool:
        """Whether this server shares a folder with others at all."""
        return bool(self._files)

    def check(self) -> None:
        """Compare the terms, where they were written anew.

        Raises:
            RuntimeError: a peer has others; the message names both servers, and each term. Or the
                file with its terms cannot be read.
        """
        for file in self._files:
            try:
                written = file.stat().st_mtime_ns
                if self._agreed.get(file) == written:
                    continue
                theirs = json.loads(file.read_text())
                server, words = theirs["server"], difference(self._own["terms"], theirs["terms"])
            except FileNotFoundError:
                continue  # no peer has started yet
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise RuntimeError(
                    f"the terms of the server that shares {file.parent} with this one cannot be "
                    f"read from {file} ({error!r}); delete the file and start that server anew"
                ) from error
            if words:
                raise RuntimeError(
                    f"this server ({self._own['server']}) and the one that shares {file.parent} "
                    f"with it ({server}) would name other images alike or the same image "
                    f"differently: {words}; start both with the same model and flags, or give each "
                    "deployment a folder of its own"
                )
            self._agreed[file] = written


def _shared_folders(vllm_config: Any) -> Iterator[tuple[Path, bool]]:
    """Each folder that this server shares with others, and whether it writes there."""
    rows, kv = vllm_config.ec_transfer_config, vllm_config.kv_transfer_config
    found = [] if rows is None else [(rows, rows.ec_connector, rows.is_ec_producer)]
    found += [] if kv is None else [(kv, kv.kv_connector, kv.is_kv_producer)]
    for config, connector, writes in found:
        if connector in SHARED_FOLDERS:
            yield shared_folder(config), writes
