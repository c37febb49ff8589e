"""Configuration of an InternVL in its own format, as a file of the checkpoint."""

from transformers import AutoConfig, PreTrainedConfig


class InternVisionConfig(PreTrainedConfig):
    model_type = "intern_vit_6b"


class InternVLChatConfig(PreTrainedConfig):
    model_type = "internvl_chat"

    def __init__(self, vision_config=None, llm_config=None, **kwargs):
        super().__init__(**kwargs)
        self.vision_config = InternVisionConfig(**(vision_config or {}))
        self.llm_config = AutoConfig.for_model(**{"model_type": "qwen2", **(llm_config or {})})
