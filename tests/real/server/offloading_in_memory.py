"""The device's side of vLLM's offloading connector where vLLM has none: on a CPU.

What it keeps and under which keys is decided by vLLM, in the scheduler; here it is only copied.
"""

from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec


class OffloadingInMemory(CPUOffloadingSpec):
    """vLLM's `CPUOffloadingSpec`, with a worker for CPUs."""

    def get_worker(self, kv_caches):
        return Copier([each.tensor for each in kv_caches.tensors])


class Copier(OffloadingWorker):
    """Copies blocks at once, when it is told to.

    Args:
        tensors: of the KV cache, [blocks, bytes] int8 each.
    """

    def __init__(self, tensors):
        self._tensors, self._kept, self._done = tensors, {}, []

    def submit_store(self, job_id, src_spec, dst_spec):
        for block, place in zip(src_spec.block_ids, dst_spec.block_ids, strict=True):
            self._kept[place] = [tensor[block].clone() for tensor in self._tensors]
        return self._finish(job_id)

    def submit_load(self, job_id, src_spec, dst_spec):
        for place, block in zip(src_spec.block_ids, dst_spec.block_ids, strict=True):
            for tensor, kept in zip(self._tensors, self._kept[place], strict=True):
                tensor[block] = kept
        return self._finish(job_id)

    def _finish(self, job_id):
        self._done.append(TransferResult(job_id, success=True))
        return True

    def get_finished(self):
        done, self._done = self._done, []
        return done

    def wait(self, job_ids):
        """All is done when it is submitted."""
