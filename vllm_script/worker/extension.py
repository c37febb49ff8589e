"""What a worker answers when the API process asks it: vLLM calls these methods by name.

`WORKER_EXTENSION` goes into vLLM's `worker_extension_cls`, which adds the methods to its worker.
"""

from __future__ import annotations

from typing import Any

WORKER_EXTENSION = "vllm_script.worker.extension.ScriptWorker"


class ScriptWorker:
    """Methods of a worker that serves a pruned model."""

    def script_take_observations(self) -> dict[str, Any]:
        """What was observed since the last call, as `PrunedModel.take_observations` has it."""
        return self.get_model().take_observations()  # type: ignore[attr-defined]

    def script_take_selections(self, names: list[str]) -> list[dict[str, Any] | None]:
        """The selections of explained images, as `Shelf.take` has them."""
        return self.get_model().shelf.take(names)  # type: ignore[attr-defined]
