"""Qwen3.5, and 3.6 and 3.8 by the same classes, dense and MoE: most layers carry a state.

Images and videos are laid out as in Qwen3-VL, but a row enters the first layer alone. Three of four
layers of the language model are gated delta nets: what they know of the tokens so far is one state,
which vLLM caches at the ends of blocks whose hashes have the images' identifiers in them. So a
state that is found again saw the same kept rows.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.qwen3_5 import (
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5MoeProcessingInfo,
    Qwen3_5ProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLMultiModalProcessor,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from ..vllm_types import EngineArgs
from .mrope import MRopeProcessor
from .qwen_vl import PrunedQwen3, Qwen3Family, QwenInfo


class Qwen3_5Family(Qwen3Family):
    """Qwen3.5, whether its language model is dense or a mixture of experts."""

    def check(self, engine_args: EngineArgs, hf_config: Any) -> None:
        """Raise ValueError for what `MRopeFamily` refuses, and for a tower unlike Qwen3.5's."""
        super().check(engine_args, hf_config)
        if getattr(hf_config.vision_config, "deepstack_visual_indexes", None):
            raise ValueError(
                "the script plugin knows no Qwen3.5 with deepstack_visual_indexes, whose rows "
                "would enter later layers too; remove --plugin script to serve this model unpruned"
            )


class ScriptQwen3_5Info(QwenInfo, Qwen3_5ProcessingInfo):
    pass


class ScriptQwen3_5Processor(MRopeProcessor, Qwen3VLMultiModalProcessor):
    family = Qwen3_5Family()


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen3_5Processor,
    info=ScriptQwen3_5Info,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class ScriptQwen3_5ForConditionalGeneration(PrunedQwen3, Qwen3_5ForConditionalGeneration):
    family = ScriptQwen3_5Processor.family


class ScriptQwen3_5MoeInfo(QwenInfo, Qwen3_5MoeProcessingInfo):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    ScriptQwen3_5Processor,
    info=ScriptQwen3_5MoeInfo,
    dummy_inputs=Qwen3VLDummyInputsBuilder,
)
class ScriptQwen3_5MoeForConditionalGeneration(PrunedQwen3, Qwen3_5MoeForConditionalGeneration):
    family = ScriptQwen3_5Processor.family
