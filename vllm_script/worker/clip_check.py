"""CLIP in a worker: loaded with the model, and checked once, when all weights are there."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from vllm.distributed import get_tp_group

from ..config import ScriptConfig
from ..relevance.checkpoint import read
from ..relevance.clip import ClipRelevance
from ..relevance.polarity import measure_polarity

logger = logging.getLogger("vllm.script")


def load_clip(vllm_config: Any, config: ScriptConfig) -> ClipRelevance | None:
    """Return CLIP's part; None where nobody can ask for it.

    Raises:
        ValueError: it is not the checkpoint that the API process has, or not whole.
    """
    if config.clip_model is None:
        return None
    from transformers import AutoConfig

    checkpoint = read(config.clip_model)
    if checkpoint.digest != config.clip_digest:
        raise ValueError(
            f"the CLIP checkpoint {config.clip_model} of this worker has the digest "
            f"{checkpoint.digest}, that of the API process {config.clip_digest}; install the same "
            "checkpoint on all machines"
        )
    clip_config = AutoConfig.from_pretrained(config.clip_model)
    dtype, device = vllm_config.model_config.dtype, vllm_config.device_config.device
    return ClipRelevance(clip_config, checkpoint.weights, dtype, device, config.kernels)


class ClipCheck:
    """Checks a model's CLIP: its weights before its first use, its polarity at start-up.

    Args:
        clip: of the model; None where there is nothing to check.
        checkpoint: folder or repository that it was loaded from.
        hf_config: of the model.
    """

    def __init__(self, clip: ClipRelevance | None, checkpoint: str | None, hf_config: Any) -> None:
        self._clip = clip
        self._checkpoint = checkpoint
        self._hf_config = hf_config
        self._weights_checked = self._polarity_checked = False

    def __call__(self, model: Any, are_dummies: bool) -> None:
        """Check what has not been checked yet.

        Every model loader is done when the first image comes: vLLM's dummy, at start-up. On CPUs,
        where vLLM has none, polarity's time comes with the first image of a request. With
        --skip-mm-profiling a GPU has none either, and it never comes: the host would wait.

        Args:
            model: a pruned LLaVA, whose tower is CLIP's.
            are_dummies: whether the images at hand are vLLM's.
        """
        if self._clip is None:
            return
        if not self._weights_checked:
            self._clip.check()
            self._weights_checked = True
        on_cpu = self._clip.visual_projection.weight.device.type == "cpu"
        if not self._polarity_checked and (are_dummies or on_cpu):
            self._polarity_checked = True
            self._check_polarity(self._clip, model)

    def _check_polarity(self, clip: ClipRelevance, model: Any) -> None:
        """Warn where CLIP's polarity is not what drawn pictures say.

        All ranks measure, since they share the tower, and the first one warns.
        """
        assert self._checkpoint is not None, "CLIP is of a checkpoint"
        started = time.perf_counter()
        vision = self._hf_config.vision_config
        states_of = partial(model._image_pixels_to_features, model.vision_tower)
        sizes = (vision.image_size, vision.patch_size)
        try:
            measured = measure_polarity(clip, self._checkpoint, states_of, *sizes)
        except (OSError, ValueError) as error:
            logger.warning("CLIP's polarity cannot be measured: %s", str(error).splitlines()[0])
            return
        logger.debug("Script measured CLIP's polarity in %.2f s", time.perf_counter() - started)
        if measured.is_right is False and get_tp_group().is_first_rank:
            logger.warning("CLIP's polarity is %s", measured)
