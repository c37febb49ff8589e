"""What our subclasses override of vLLM's classes, and what they call of them: probes, no patches.

All of it is inherited or called as Python offers, but most is private in vLLM and may change with
any release. A test walks our classes and compares them with these tables.
"""

from __future__ import annotations

from .probing import EXISTS, Expected, Probes, members

RENDERER: Probes = {
    **members(
        "vllm.renderers.hf:HfRenderer",
        {
            "__init__": ("config", "tokenizer"),
            "render_messages": ("messages", "params"),
            "render_messages_async": ("messages", "params"),
            "clear_mm_cache": (),
            "_process_mm_uuids": ("mm_data", "mm_data_items", "mm_uuid_items", "mm_req_id"),
            "_validate_mm_uuids": ("mm_data", "mm_data_items", "mm_uuid_items"),
            "_process_tokens": ("prompt", "skip_mm_cache"),
            "_process_tokens_async": ("prompt", "skip_mm_cache"),
            "get_mm_processor": (),
            "get_tokenizer": (),
        },
    ),
    "vllm.renderers.params:ChatParams": frozenset({"chat_template_kwargs"}),
}

PROCESSING: Probes = {
    **members(
        "vllm.multimodal.processing:ProcessorInputs",
        dict.fromkeys(("prompt", "mm_data_items", "hf_processor_mm_kwargs"), EXISTS),
    ),
    **members(
        "vllm.multimodal.processing:BaseProcessingInfo",
        {
            "get_hf_config": EXISTS,
            "get_hf_processor": ("kwargs",),
            "get_tokenizer": (),
            "parse_mm_data": frozenset({"mm_data", "validate"}),
        },
    ),
    "vllm.multimodal.processing.processor:cached_encode": (
        *("tokenizer", "text", "truncation", "add_special_tokens"),
    ),
    **members(
        "vllm.multimodal.processing.processor:PromptUpdateDetails",
        dict.fromkeys(("full", "is_embed"), EXISTS),
    ),
    "vllm.multimodal.parse:ImageProcessorItems.get_image_size": frozenset({"item_idx"}),
    "vllm.multimodal.inputs:PlaceholderRange.get_num_embeds": EXISTS,
    "vllm.multimodal.inputs:PlaceholderRange.extract_embeds_range": (),
    "vllm.multimodal.inputs:MultiModalFieldConfig.batched": frozenset({"modality", "keep_on_cpu"}),
    "vllm.multimodal.inputs:MultiModalKwargsItems.from_hf_inputs": EXISTS,
}

_PROCESSOR: dict[str, Expected] = {
    "__init__": frozenset({"info", "dummy_inputs"}),
    "apply": ("inputs", "timing_ctx"),
    "get_dummy_inputs": frozenset({"seq_len", "mm_counts", "mm_options"}),
    "_get_mm_hashes": ("inputs",),
    "_get_cache_missing_processor_kwargs": ("inputs", "mm_is_cached"),
    "_apply_hf_processor_main": ("mm_items", "hf_kwargs"),
    "_get_mm_fields_config": ("hf_inputs", "hf_processor_mm_kwargs"),
    "_get_prompt_updates": ("mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"),
}
_MODEL: dict[str, Expected] = {
    "__init__": ("vllm_config", "prefix"),
    "load_weights": ("weights",),
    "embed_multimodal": ("kwargs",),
    "get_language_model": (),
}
_LOADER: Probes = {
    "vllm.model_executor.model_loader.default_loader:DefaultModelLoader.Source": frozenset(
        {"model_or_path", "revision", "prefix"}
    ),
}
_GRAPHS: dict[str, Expected] = {"get_encoder_cudagraph_config": ()}
_MODELS = "vllm.model_executor.models"


def _family(
    module: str,
    prefix: str,
    model: str = "{}ForConditionalGeneration",
    model_methods: dict[str, Expected] | None = None,
    info_methods: dict[str, Expected] | None = None,
) -> Probes:
    """Probes of one family: its processor, its model, and what it alone overrides or calls."""
    owner = f"{_MODELS}.{module}"
    return {
        **members(f"{owner}:{prefix}MultiModalProcessor", _PROCESSOR),
        **members(f"{owner}:{model.format(prefix)}", {**_MODEL, **(model_methods or {})}),
        **members(f"{owner}:{prefix}ProcessingInfo", info_methods or {}),
        **_LOADER,
    }


_LLAVA: dict[str, Expected] = {"_parse_and_validate_image_input": ("kwargs",)}
_MERGE = "_merge_image_patch_embeddings"
_ANYRES: Probes = {
    f"{_MODELS}.llava_next:get_anyres_image_grid_shape": frozenset(
        {"image_size", "grid_pinpoints", "patch_size"}
    ),
}


def _qwen(module: str, prefix: str, model_methods: dict[str, Expected]) -> Probes:
    """Probes of a family of Qwen, whose tokens have positions in three dimensions."""
    positions = ("input_ids", "multimodal_embeddings", "mrope_positions", "num_computed_tokens")
    protocol = f"{_MODELS}.interfaces:SupportsMultiModalPruning"
    vision = {"image_width", "image_height", "num_frames", "image_processor", "mm_kwargs"}
    return {
        **_family(
            module,
            prefix,
            model_methods={
                "get_mrope_input_positions": ("input_tokens", "mm_features"),
                **_GRAPHS,
                **model_methods,
            },
            info_methods={
                "get_mm_max_tokens_per_item": ("seq_len", "mm_counts"),
                "get_image_processor": ("kwargs",),
                "_get_vision_info": frozenset(vision),
            },
        ),
        f"{protocol}.supports_multimodal_pruning": EXISTS,
        f"{protocol}.recompute_mrope_positions": positions,
        "vllm.utils.gpu_sync_debug:gpu_sync_allowed": EXISTS,
    }


_STOCK_PRUNING: dict[str, Expected] = {
    "supports_multimodal_pruning": EXISTS,
    "recompute_mrope_positions": (
        *("input_ids", "multimodal_embeddings", "mrope_positions", "num_computed_tokens"),
    ),
}
_INTERNVL_TILES = "vllm.transformers_utils.processors.internvl"

FAMILIES: dict[str, Probes] = {
    "LlavaForConditionalGeneration": _family(
        "llava",
        "Llava",
        model_methods={**_LLAVA, "_process_image_pixels": frozenset({"inputs"})},
    ),
    "LlavaNextForConditionalGeneration": {
        **_family(
            "llava_next",
            "LlavaNext",
            model_methods={
                **_LLAVA,
                "_image_pixels_to_features": ("vision_tower", "pixel_values"),
                _MERGE: ("image_size", "patch_embeddings", "strategy"),
            },
        ),
        **_ANYRES,
    },
    "LlavaOnevisionForConditionalGeneration": {
        **_family(
            "llava_onevision",
            "LlavaOnevision",
            model_methods={
                _MERGE: (
                    *("image_size", "patch_embeddings", "image_newline"),
                    *("vision_aspect_ratio", "strategy"),
                )
            },
        ),
        **_ANYRES,
    },
    "LlavaNextVideoForConditionalGeneration": _family("llava_next_video", "LlavaNextVideo"),
    "Qwen2VLForConditionalGeneration": _qwen("qwen2_vl", "Qwen2VL", {}),
    "Qwen2_5_VLForConditionalGeneration": _qwen("qwen2_5_vl", "Qwen2_5_VL", _STOCK_PRUNING),
    "Qwen3VLForConditionalGeneration": _qwen(
        "qwen3_vl",
        "Qwen3VL",
        {**_STOCK_PRUNING, "_init_video_pruning": ("multimodal_config",)},
    ),
    "InternVLForConditionalGeneration": {
        **_family("interns1", "InternS1"),
        "vllm.multimodal.processing.context:InputProcessingContext.get_merged_mm_kwargs": frozenset(
            {"kwargs"}
        ),
    },
    "InternVLChatModel": {
        **_family("internvl", "InternVL", model="{}ChatModel", model_methods=_GRAPHS),
        **members(
            _INTERNVL_TILES,
            {
                "InternVLProcessor.get_num_image_tokens": frozenset(
                    {"image_width", "image_height"}
                ),
                "get_internvl_target_ratios": ("min_num", "max_num"),
                "resolve_internvl_min_max_num": frozenset(
                    ("min_dynamic_patch", "max_dynamic_patch")
                    + ("dynamic_image_size", "use_thumbnail")
                ),
                "calculate_internvl_targets": frozenset(
                    ("orig_width", "orig_height", "target_ratios", "image_size", "use_thumbnail")
                ),
            },
        ),
    },
}
"""Probes of each family, by vLLM's name of the architecture."""
