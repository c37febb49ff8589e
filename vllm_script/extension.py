"""What a worker answers when the API process asks it: vLLM calls these methods by name.

`WORKER_EXTENSION` goes into vLLM's `worker_extension_cls`, which adds the methods to its worker.
Like plugin.py this file stands above the rooms: the worker itself knows nothing of explain.
"""

from __future__ import annotations

from typing import Any

WORKER_EXTENSION = "vllm_script.extension.ScriptWorker"


class ScriptWorker:
    """Methods of a worker that serves a pruned model."""

    _script_shelf: Any = None

    def script_take_observations(self) -> dict[str, Any]:
        """Return what was observed since the last call: see `PrunedModel.take_observations`."""
        observed: dict[str, Any] = self.get_model().take_observations()  # type: ignore[attr-defined]
        return observed

    def script_keep_selections(self) -> None:
        """Keep the selections of plans that have an `explain_id` from now on."""
        from .explain.shelf import Shelf

        if self._script_shelf is None:
            self._script_shelf = Shelf()
        self.get_model().selection_watcher = self._script_shelf.put  # type: ignore[attr-defined]

    def script_take_selections(self, names: list[str]) -> list[dict[str, Any] | None]:
        """Return the selections of explained images by `explain_id`, as `Shelf.take` has them."""
        assert self._script_shelf is not None, "script_keep_selections comes first"
        taken: list[dict[str, Any] | None] = self._script_shelf.take(names)
        return taken
