"""Where rows of images lie between an encoder and a language model: files in a shared folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..agreement import digest, model_terms
from ..connectors import shared_folder

ROWS = "ec_cache"
"""Name of the rows in a file, as vLLM's example connector reads it."""


class RowFolder:
    """The files of one model.

    They lie below the shared folder in one of the model's own: an image's identifier does not say
    which model encoded it.

    Args:
        vllm_config: vLLM's `VllmConfig` of a server that has an encoder instance, or is one.
    """

    def __init__(self, vllm_config: Any) -> None:
        of_model = digest(model_terms(vllm_config.model_config))
        self.root = shared_folder(vllm_config.ec_transfer_config) / of_model
        self.root.mkdir(parents=True, exist_ok=True)

    def __contains__(self, identifier: str) -> bool:
        """Whether the rows of an image are there, whole."""
        return self.num_rows(identifier) is not None

    def path(self, identifier: str) -> Path:
        """The file of an image. A client's uuid may be any text, so its digest names the file."""
        data = identifier.encode("utf-8", "surrogatepass")
        return self.root / f"{hashlib.blake2b(data, digest_size=32).hexdigest()}.safetensors"

    def num_rows(self, identifier: str) -> int | None:
        """How many rows there are of an image; None where they are not there, or not to be read."""
        broken = (OSError, ValueError, LookupError, TypeError)
        with contextlib.suppress(*broken), self.path(identifier).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if 8 + length <= size:
                tensor = json.loads(file.read(length))[ROWS]
                if 8 + length + tensor["data_offsets"][1] == size:
                    return int(tensor["shape"][0])
        return None
