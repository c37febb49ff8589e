"""Names of vLLM that our classes override or call, and the parameters they must have.

patches/vllm.py looks at start-up whether they are still there: those in PROBES always, those of the
models only for the family that is served.
"""

from __future__ import annotations

Probes = dict[str, tuple[str, ...]]

PROBES: Probes = {
    "vllm.multimodal.processing:BaseMultiModalProcessor.apply": ("inputs", "timing_ctx"),
    "vllm.multimodal.processing:BaseMultiModalProcessor._get_mm_hashes": ("inputs",),
    "vllm.multimodal.processing:BaseMultiModalProcessor._get_cache_missing_processor_kwargs": (
        "inputs",
        "mm_is_cached",
    ),
    "vllm.multimodal.processing:BaseMultiModalProcessor._apply_hf_processor_main": (
        "mm_items",
        "hf_kwargs",
    ),
    "vllm.multimodal.processing:BaseMultiModalProcessor._get_mm_fields_config": (
        "hf_inputs",
        "hf_processor_mm_kwargs",
    ),
    "vllm.multimodal.processing:BaseMultiModalProcessor._get_prompt_updates": (
        "mm_items",
        "hf_processor_mm_kwargs",
        "out_mm_kwargs",
    ),
    "vllm.entrypoints.launchers.app:init_entrypoints_middleware": (
        "args",
        "app",
        "supported_tasks",
    ),
    "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat.render_chat_request": (
        "request",
    ),
    "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat._maybe_get_adapters": (
        "request",
        "supports_default_mm_loras",
    ),
    "vllm.renderers.hf:HfRenderer.render_messages": ("messages", "params"),
    "vllm.renderers.hf:HfRenderer.render_messages_async": ("messages", "params"),
    "vllm.renderers.hf:HfRenderer.clear_mm_cache": (),
    "vllm.renderers.hf:HfRenderer._process_mm_uuids": (
        "mm_data",
        "mm_data_items",
        "mm_uuid_items",
        "mm_req_id",
    ),
    "vllm.renderers.hf:HfRenderer._validate_mm_uuids": (
        "mm_data",
        "mm_data_items",
        "mm_uuid_items",
    ),
    "vllm.renderers.hf:HfRenderer._process_tokens": ("prompt", "skip_mm_cache"),
    "vllm.renderers.hf:HfRenderer._process_tokens_async": ("prompt", "skip_mm_cache"),
    "vllm.multimodal.processing:BaseMultiModalProcessor.get_dummy_inputs": (
        "seq_len",
        "mm_counts",
        "mm_options",
    ),
    "vllm.multimodal.processing.processor:cached_encode": (
        "tokenizer",
        "text",
        "truncation",
        "add_special_tokens",
    ),
}

_LLAVA = {
    "_parse_and_validate_image_input": ("kwargs",),
    "_image_pixels_to_features": ("vision_tower", "pixel_values"),
}
_MERGE = ("image_size", "patch_embeddings", "strategy")
_MROPE = {
    "get_mrope_input_positions": ("input_tokens", "mm_features"),
    "get_encoder_cudagraph_config": (),
}
_VISION_INFO = (
    *("image_width", "image_height", "num_frames", "do_resize"),
    *("image_processor", "mm_kwargs", "modality"),
)
_INTERNVL = "vllm.model_executor.models.internvl"
_INTERNVL_TILES = "vllm.transformers_utils.processors.internvl"
_RECOMPUTE = {
    "vllm.config.multimodal:MultiModalConfig.is_multimodal_pruning_enabled": (),
    "vllm.model_executor.models.interfaces:SupportsMultiModalPruning.recompute_mrope_positions": (
        *("input_ids", "multimodal_embeddings", "mrope_positions", "num_computed_tokens"),
    ),
}


def _of_model(module: str, name: str, methods: dict[str, tuple[str, ...]]) -> Probes:
    model = f"vllm.model_executor.models.{module}:{name}ForConditionalGeneration"
    return {f"{model}.{method}": parameters for method, parameters in methods.items()}


def _of_qwen(module: str, name: str) -> Probes:
    info = f"vllm.model_executor.models.{module}:{name}ProcessingInfo._get_vision_info"
    return {**_of_model(module, name, _MROPE), info: _VISION_INFO, **_RECOMPUTE}


FAMILY_PROBES: dict[str, Probes] = {
    "LlavaForConditionalGeneration": _of_model("llava", "Llava", _LLAVA),
    "LlavaNextForConditionalGeneration": _of_model(
        "llava_next", "LlavaNext", {**_LLAVA, "_merge_image_patch_embeddings": _MERGE}
    ),
    "LlavaOnevisionForConditionalGeneration": _of_model(
        "llava_onevision",
        "LlavaOnevision",
        {
            "_merge_image_patch_embeddings": (
                *("image_size", "patch_embeddings", "image_newline"),
                *("vision_aspect_ratio", "strategy"),
            )
        },
    ),
    "Qwen2VLForConditionalGeneration": _of_qwen("qwen2_vl", "Qwen2VL"),
    "Qwen2_5_VLForConditionalGeneration": _of_qwen("qwen2_5_vl", "Qwen2_5_VL"),
    "Qwen3VLForConditionalGeneration": {
        **_of_qwen("qwen3_vl", "Qwen3VL"),
        **_of_model("qwen3_vl", "Qwen3VL", {"_init_video_pruning": ("multimodal_config",)}),
    },
    "InternVLForConditionalGeneration": {
        **_of_model("interns1", "InternS1", {"embed_multimodal": ("kwargs",)}),
        "vllm.multimodal.processing.context:InputProcessingContext.get_merged_mm_kwargs": (
            *("kwargs", "supported_mm_processor_kwargs"),
        ),
    },
    "InternVLChatModel": {
        f"{_INTERNVL}:InternVLChatModel.embed_multimodal": ("kwargs",),
        f"{_INTERNVL}:InternVLChatModel.get_encoder_cudagraph_config": (),
        f"{_INTERNVL_TILES}:InternVLProcessor.get_num_image_tokens": (
            *("image_width", "image_height"),
        ),
        f"{_INTERNVL_TILES}:get_internvl_target_ratios": ("min_num", "max_num"),
        f"{_INTERNVL_TILES}:resolve_internvl_min_max_num": (
            *("min_dynamic_patch", "max_dynamic_patch", "dynamic_image_size", "use_thumbnail"),
        ),
        f"{_INTERNVL_TILES}:calculate_internvl_targets": (
            *("orig_width", "orig_height", "target_ratios", "image_size", "use_thumbnail"),
        ),
    },
    "LlavaNextVideoForConditionalGeneration": _of_model(
        "llava_next_video", "LlavaNextVideo", {"embed_multimodal": ("kwargs",)}
    ),
}
