"""A folder where an encoder puts the rows of images, and a language model finds them.

vLLM's example connector does this in a way that is meant for debugging: it writes files under their
final name, reads them without a look at how many rows there are, and makes a folder of whatever a
client calls its image. A file over which an encoder was killed would end the language model's
engine, and so would rows that are not as many as the prompt has places for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save
from vllm.distributed.ec_transfer.ec_connector.example_connector import ECExampleConnector
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ..agreement import digest, model_terms, shared_folder, write_whole

logger = logging.getLogger("vllm.script")

ROWS = "ec_cache"
"""Name of the rows in a file, as the example connector reads it."""


class RowStore(ECExampleConnector):
    """vLLM's `ECExampleConnector`, whose files are whole, of this model, and counted before use.

    Rows lie below the folder in one of the model's own: an image's identifier does not say which
    model encoded it.
    """

    def __init__(self, vllm_config: Any, role: Any) -> None:
        super().__init__(vllm_config, role)
        of_model = digest(model_terms(vllm_config.model_config))
        self._folder = shared_folder(vllm_config.ec_transfer_config) / of_model
        self._folder.mkdir(parents=True, exist_ok=True)
        self._refused: set[str] = set()
        """Names of the requests that the scheduler is to end."""

    def has_cache_item(self, identifier: str) -> bool:
        """Whether the rows of that image are there.

        They count as new from now on, so that no timer removes them before they are read.
        """
        with contextlib.suppress(OSError):
            os.utime(self._path(identifier))
        return self._num_rows(identifier) is not None

    def save_caches(self, encoder_cache: Any, mm_hash: str, **kwargs: Any) -> None:
        """Write the rows of an image.

        Where that fails, as on a full disk, the language model encodes the image itself.
        """
        if not self.is_producer:
            return
        with gpu_sync_allowed():
            rows = encoder_cache[mm_hash].detach().cpu().contiguous()
        try:
            write_whole(self._path(mm_hash), save({ROWS: rows}))
        except OSError as error:
            logger.error(
                "the rows of an image cannot be written, so the language model encodes it itself; "
                "make room in %s, or make it writable: %s",
                *(self._folder, error),
            )

    def ensure_cache_available(self, request: Any, num_computed_tokens: int) -> bool:
        """Whether a request may run: False ends it where an image has other rows than its prompt.

        That happens where a client gives one uuid to pictures of several sizes. A file may come or
        change at any time, so those of all images that are still to be computed are looked at.
        """
        if not self.is_consumer:
            return True
        for index, feature in enumerate(request.mm_features):
            place = feature.mm_position
            if place.offset + place.length <= num_computed_tokens:
                continue
            found = self._num_rows(feature.identifier)
            expected = request.get_num_encoder_embeds(index)
            if found not in (None, expected):
                logger.error(
                    "request %s ends: image %d has %s rows in %s, its prompt has places for %s; a "
                    "uuid must stand for one picture alone",
                    *(request.request_id, index, found, self._folder, expected),
                )
                self._refused.add(request.request_id)
                return False
        return True

    def take_unavailable_requests(self) -> set[str]:
        """Return the requests that end with an error, once."""
        refused, self._refused = self._refused, set()
        return refused

    def request_finished(self, request: Any) -> tuple[bool, dict[str, Any] | None]:
        """Nothing goes to the client of a request that has ended.

        The example connector returns the grid of each image, by which a language model may size a
        prompt without the picture: that would be the size before pruning.
        """
        return False, None

    def _generate_filename_debug(self, mm_hash: str, create_folder: bool = True) -> str:
        """The file of an image, where the example connector reads it."""
        return str(self._path(mm_hash))

    def _path(self, identifier: str) -> Path:
        """The file of an image. A client's uuid may be any text, so its digest names the file."""
        data = identifier.encode("utf-8", "surrogatepass")
        return self._folder / f"{hashlib.blake2b(data, digest_size=32).hexdigest()}.safetensors"

    def _num_rows(self, identifier: str) -> int | None:
        """How many rows there are of an image; None where they are not there, or not to be read."""
        broken = (OSError, ValueError, LookupError, TypeError)
        with contextlib.suppress(*broken), self._path(identifier).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if 8 + length <= size:
                tensor = json.loads(file.read(length))[ROWS]
                if 8 + length + tensor["data_offsets"][1] == size:
                    return int(tensor["shape"][0])
        return None
