"""What our subclasses override of vLLM's classes, and what they call of them: probes, no patches.

All of it is inherited or called as Python offers, but most is private in vLLM and may change with
any release. Here is what all families have in common; what one has alone stands in its file, in the
`probes` of its classes. A test walks our classes and compares them with both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import Family
from .probing import EXISTS, Expected, Probes, members

_RENDERER: Probes = {
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
}
"""Of either renderer."""

RENDERER: Probes = {
    **members("vllm.renderers.hf:HfRenderer", _RENDERER),
    **members("vllm.renderers.mistral:MistralRenderer", _RENDERER),
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
            "allowed_mm_limits": EXISTS,
            "get_hf_config": EXISTS,
            "get_hf_processor": ("kwargs",),
            "get_tokenizer": (),
            "parse_mm_data": frozenset({"mm_data", "validate"}),
        },
    ),
    "vllm.multimodal.processing.context:InputProcessingContext.get_merged_mm_kwargs": frozenset(
        {"kwargs"}
    ),
    "vllm.multimodal.processing.processor:cached_encode": (
        *("tokenizer", "text", "truncation", "add_special_tokens"),
    ),
    **members(
        "vllm.multimodal.processing.processor:PromptUpdateDetails",
        dict.fromkeys(("full", "is_embed"), EXISTS),
    ),
    "vllm.multimodal.parse:ImageProcessorItems.get_image_size": frozenset({"item_idx"}),
    **members(
        "vllm.multimodal.processing.processor:PromptReplacement",
        dict.fromkeys(("modality", "content", "replacement"), EXISTS),
    ),
    **members(
        "vllm.multimodal.inputs:PlaceholderRange",
        {
            **dict.fromkeys(("offset", "length", "get_num_embeds"), EXISTS),
            "extract_embeds_range": (),
        },
    ),
    **members(
        "vllm.multimodal.inputs:MultiModalFeatureSpec",
        dict.fromkeys(("data", "modality", "mm_position"), EXISTS),
    ),
    **members(
        "vllm.config.model:ModelConfig",
        dict.fromkeys(("model", "hf_config", "hf_overrides", "max_logprobs"), EXISTS),
    ),
    "vllm.multimodal.inputs:MultiModalFieldConfig.batched": frozenset({"modality", "keep_on_cpu"}),
    "vllm.multimodal.inputs:MultiModalKwargsItems.from_hf_inputs": EXISTS,
    "vllm.multimodal.inputs:MultiModalFieldConfig.field": EXISTS,
    "vllm.multimodal.inputs:MultiModalFlatField.dim": EXISTS,
    "vllm.exceptions:VLLMValidationError": frozenset({"message", "parameter"}),
}

WORKER: Probes = {"vllm.v1.worker.worker_base:WorkerBase.get_model": ()}
"""What our worker extension, whose methods vLLM adds to its worker, calls of it."""

SCHEDULING: Probes = {
    **members(
        "vllm.v1.core.encoder_cache_manager:EncoderCacheManager",
        {
            "__init__": ("cache_size",),
            "create_manager": ("cache_size", "vllm_config"),
            "can_allocate": (
                *("request", "input_id", "encoder_compute_budget", "num_embeds_to_schedule"),
            ),
            "allocate": ("request", "input_id"),
            "get_freed_mm_hashes": (),
        },
    ),
    **members(
        "vllm.config.ec_manager_config:EncoderCacheManagerConfig",
        {"encoder_cache_manager_cls": EXISTS, "get_encoder_cache_manager_obj": ()},
    ),
    "vllm.v1.request:Request.get_num_encoder_embeds": ("input_id",),
    **members(
        "vllm.config.scheduler:SchedulerConfig",
        {"max_num_scheduled_tokens": EXISTS, "max_num_batched_tokens": EXISTS},
    ),
}

ENGINES: Probes = {
    "vllm.v1.engine.core_client:AsyncMPClient.call_utility_all_async": ("method", "args"),
    "vllm.v1.engine.core:EngineCore.collective_rpc": ("method", "timeout", "args", "kwargs"),
}
"""What is called of each data-parallel engine."""

ROW_STORE: Probes = {
    **members(
        "vllm.distributed.ec_transfer.ec_connector.example_connector:ECExampleConnector",
        {
            "__init__": ("vllm_config", "role"),
            "has_cache_item": ("identifier",),
            "save_caches": ("encoder_cache", "mm_hash", "kwargs"),
            "start_load_caches": ("encoder_cache", "kwargs"),
            "update_state_after_alloc": ("request", "index"),
            "build_connector_meta": ("scheduler_output",),
            "ensure_cache_available": ("request", "num_computed_tokens"),
            "take_unavailable_requests": (),
            "request_finished": ("request",),
            "_generate_filename_debug": frozenset({"mm_hash"}),
        },
    ),
    **members(
        "vllm.config.ec_transfer:ECTransferConfig",
        dict.fromkeys(("ec_connector", "ec_connector_module_path", "ec_role"), EXISTS),
    ),
    "vllm.config.vllm:VllmConfig.is_mm_encoder_only": EXISTS,
}
"""What our store of an encoder's rows overrides and calls."""

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
_LARGEST: dict[str, dict[str, Expected]] = {
    "image": {"get_max_image_tokens": ()},
    "video": {"get_num_frames_with_most_features": frozenset({"seq_len", "mm_counts"})},
}
"""What a processing info is asked for the largest item that is profiled, by modality, where the
family has no `largest_item` of its own."""


def of_family(model_class: Any) -> Probes:
    """Probes of what a family's model, processor and processing info override and call of vLLM.

    What all families do is in tables of this module. Beyond that, each of the three classes and
    their bases may have a table `probes`: a name there is one of the stock class that is
    subclassed, a path with a colon is any other.

    Args:
        model_class: our subclass of a stock model, registered with vLLM.
    """
    registered, family = model_class._processor_factory, model_class.family
    largest: dict[str, Expected] = {}
    if type(family).largest_item is Family.largest_item:
        largest = {k: v for m in family.modalities for k, v in _LARGEST[m].items()}
    return {
        **_of_class(registered.processor, _PROCESSOR),
        **_of_class(model_class, _MODEL),
        **_of_class(registered.info, largest),
    }


def _of_class(cls: type, common: Mapping[str, Expected]) -> Probes:
    """Probes of one class: the common ones, and those that it and its bases have in `probes`."""
    stock = next(base for base in cls.__mro__ if base.__module__.startswith("vllm."))
    expected = dict(common)
    for base in reversed(cls.__mro__):
        expected |= vars(base).get("probes", {})
    owner = f"{stock.__module__}:{stock.__qualname__}"
    return {
        name if ":" in name else f"{owner}.{name}": parameters
        for name, parameters in expected.items()
    }
