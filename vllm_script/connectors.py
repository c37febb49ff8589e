"""What servers share images and KV caches by: vLLM's connectors, and files in a folder."""

from __future__ import annotations

import contextlib
import importlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def kv_connectors(config: Any) -> Iterator[tuple[set[str], Mapping[str, Any]]]:
    """Names and options of a KV connector and of those that it combines.

    Args:
        config: vLLM's `KVTransferConfig`, or a dictionary with its fields.

    Returns:
        Of each connector the names of its class and, where the operator names a module, of the
        classes that it derives from; and its `kv_connector_extra_config`.
    """
    values = config if isinstance(config, Mapping) else vars(config)
    name, module = values.get("kv_connector"), values.get("kv_connector_module_path")
    options = values.get("kv_connector_extra_config") or {}
    names = {name} if name else set()
    if name and module:
        with contextlib.suppress(ImportError, AttributeError):  # vLLM says so itself, later
            named = getattr(importlib.import_module(module), name)
            names |= {base.__name__ for base in named.__mro__}
    yield names, options
    for each in options.get("connectors") or ():
        yield from kv_connectors(each)


def has_nixl(vllm_config: Any) -> bool:
    """Whether a server gives its KV cache to peers, or takes theirs, by NIXL."""
    transfer = vllm_config.kv_transfer_config
    found = [] if transfer is None else kv_connectors(transfer)
    return any(is_nixl(names) for names, _ in found)


def is_nixl(names: Iterable[str]) -> bool:
    """Whether one of a connector's names is that of vLLM's for NIXL, whoever begins a transfer."""
    return any("nixl" in name.lower() for name in names)


def shared_folder(transfer: Any) -> Path:
    """Return the folder that servers share by one of vLLM's example connectors.

    Args:
        transfer: vLLM's `ECTransferConfig` or `KVTransferConfig`.
    """
    return Path(transfer.get_from_extra_config("shared_storage_path", "/tmp"))  # as vLLM has it


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that others may be reading: it is there as a whole, or not at all.

    Raises:
        OSError: it cannot be written, as on a full disk; then nothing is left of it.
    """
    partial = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
