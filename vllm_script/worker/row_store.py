"""The connector by which an encoder leaves the rows of images in a folder for a language model.

vLLM's example connector does this in a way that is meant for debugging: it writes files under their
final name, reads them without a look at how many rows there are, and makes a folder of whatever a
client calls its image. A file over which an encoder was killed would end the language model's
engine, and so would rows that are not as many as the prompt has places for.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from safetensors.torch import save
from vllm.distributed.ec_transfer.ec_connector.example_connector import ECExampleConnector
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ..connectors import write_whole
from .row_folder import ROWS, RowFolder

logger = logging.getLogger("vllm.script")


class RowStore(ECExampleConnector):
    """vLLM's `ECExampleConnector`, whose files are whole, of this model, and counted before use."""

    def __init__(self, vllm_config: Any, role: Any) -> None:
        super().__init__(vllm_config, role)
        self._folder = RowFolder(vllm_config)
        self._refused: set[str] = set()
        """Names of the requests that the scheduler is to end."""

    def has_cache_item(self, identifier: str) -> bool:
        """Whether the rows of that image are there.

        They count as new from now on, so that no timer removes them before they are read.
        """
        with contextlib.suppress(OSError):
            os.utime(self._folder.path(identifier))
        return identifier in self._folder

    def save_caches(self, encoder_cache: Any, mm_hash: str, **kwargs: Any) -> None:
        """Write the rows of an image.

        Where that fails, as on a full disk, the language model encodes the image itself.
        """
        if not self.is_producer:
            return
        with gpu_sync_allowed():
            rows = encoder_cache[mm_hash].detach().cpu().contiguous()
        try:
            write_whole(self._folder.path(mm_hash), save({ROWS: rows}))
        except OSError as error:
            logger.error(
                "the rows of an image cannot be written, so the language model encodes it itself; "
                "make room in %s, or make it writable: %s",
                *(self._folder.root, error),
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
            found = self._folder.num_rows(feature.identifier)
            expected = request.get_num_encoder_embeds(index)
            if found not in (None, expected):
                logger.error(
                    "request %s ends: image %d has %s rows in %s, its prompt has places for %s; a "
                    "uuid must stand for one picture alone",
                    *(request.request_id, index, found, self._folder.root, expected),
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
        return str(self._folder.path(mm_hash))
