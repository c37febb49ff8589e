"""vLLM's own pruning of videos, to compare with: the flags of its servers, and what they keep."""

from __future__ import annotations

from vllm_script.layout import Layout


def own_flags(method: str, keep_ratio: float, on_cpu: bool) -> tuple[str, ...]:
    """Arguments of a server; `method`: evs or vidcom2."""
    rate = str(_pruning_rate(keep_ratio))
    worker = ("--worker-cls", f"{__package__}.own_pruning_worker.Worker") if on_cpu else ()
    return (*worker, "--video-pruning-method", method, "--video-pruning-rate", rate)


def own_num_kept(method: str, layout: Layout, keep_ratio: float) -> int:
    """Visual tokens that it keeps of a video: all of a frame at least, or one of every frame.

    Source: vllm/multimodal/video_prune, `compute_retained_tokens_count` of both methods.
    """
    total = layout.num_placeholders
    fewest = {"evs": total // layout.num_frames, "vidcom2": layout.num_frames}[method]
    return max(fewest, int(total * (1 - _pruning_rate(keep_ratio))))


def _pruning_rate(keep_ratio: float) -> float:
    """What is dropped, without the last bits that 1 - keep_ratio has in binary."""
    return round(1 - keep_ratio, 6)
