"""A worker for CPUs, for vLLM's own pruning of videos; a server is given it as --worker-cls.

vLLM 0.32 accepts --video-pruning-method on a CPU and ends at the first video: the GPU's model
runner notes, when it loads a model, that pruned rows carry positions; the CPU's loads it otherwise
and does not. Source: vllm/v1/worker, `load_model` of gpu_model_runner.py and cpu_model_runner.py.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.cpu_worker import CPUWorker


class Worker(CPUWorker):
    """vLLM's own, with the note."""

    def load_model(self, **kwargs: Any) -> None:
        super().load_model(**kwargs)
        self.model_runner.is_multimodal_pruning_enabled = True
