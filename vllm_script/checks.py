"""What is checked before anything is pruned: this vLLM, the model, and the options beside ours.

Each check raises an error of one line that says what is wrong and what to do; `summary` says what
will be done. plugin.py asks when a configuration is built, `vllm-script doctor` when somebody does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .config import ScriptConfig
from .connectors import is_nixl, kv_connectors
from .extension import WORKER_EXTENSION
from .families import family_of, model_class, pruned_name, registrations
from .kernels._triton import HAS_TRITON, is_interpreted
from .patches import overrides, supported
from .patches.probing import EXISTS, Probes, misfits, require
from .patches.renderer_registry import check_front_end
from .plan import make_plan
from .vllm_types import EngineArgs, ModelConfig

OURS: Probes = {
    "vllm_script.frontend.renderer:build_hf_renderer": EXISTS,
    "vllm_script.frontend.renderer:build_mistral_renderer": EXISTS,
    "vllm_script.server.explain:install": EXISTS,
    "vllm_script.server.observe:install": EXISTS,
    "vllm_script.server.script_field:install": EXISTS,
    "vllm_script.server.shadow:install": EXISTS,
    "vllm_script.worker.encoder_work:ScriptEncoderCacheManager": EXISTS,
    "vllm_script.worker.row_store:RowStore": EXISTS,
}
"""Our own modules of the front end and the scheduler: importing them shows whether vLLM has what
they import."""


KEYED_BY_TOKENS = frozenset({"LMCacheMPConnector", "HF3FSKVConnector", "FlexKVConnectorV1"})
"""KV connectors, by the name of their class, that find what they stored by token ids alone."""


SENDS_ROWS = "ECExampleConnector"
"""The connector of vLLM's that takes rows from an encoder instance to a language model, of those
that were tried. worker/row_store.py takes its place."""


def check_vllm() -> None:
    """Raise RuntimeError, in one line, unless this vLLM has what the front end uses of it."""
    if problem := supported.start_up_problem():
        raise RuntimeError(problem)
    require({**supported.FRONT_END, **OURS})


def family_probes(architecture: str) -> Probes:
    """Probes of a family's module and of what it uses of vLLM, by the stock architecture.

    They are those of the module alone where this vLLM lacks what the module imports.
    """
    path = dict(registrations())[pruned_name(architecture)]
    ours: Probes = {path: EXISTS, f"{path}._processor_factory": EXISTS}
    if misfits(ours):
        return ours
    return {**overrides.of_family(model_class(pruned_name(architecture))), **ours}


def check_device() -> None:
    """Raise ValueError, in one line, on a GPU for which there are no kernels."""
    if torch.version.hip is not None:
        raise ValueError(
            "the script plugin does not support ROCm: its kernels are for NVIDIA GPUs, and this "
            f"PyTorch is for ROCm {torch.version.hip}; remove --plugin script to serve unpruned"
        )


def check_kernels(config: ScriptConfig) -> None:
    """Raise ValueError, in one line, for kernels that were asked for and cannot run here."""
    if config.kernels != "triton":
        return
    from vllm.platforms import current_platform

    if not HAS_TRITON:
        raise ValueError(
            "--script-kernels triton needs Triton, which is not installed; install it (pip install "
            "triton), or use --script-kernels auto or torch"
        )
    if not current_platform.is_cuda() and not is_interpreted():
        raise ValueError(
            "--script-kernels triton needs an NVIDIA GPU, and vLLM runs on "
            f"{current_platform.device_type} here; use --script-kernels auto or torch"
        )


def check_supported(engine_args: EngineArgs, model_config: ModelConfig) -> None:
    """Raise ValueError, before weights load, for what pruning would get wrong."""
    check_device()
    hf_config = model_config.hf_config
    if hf_config.architectures[0] not in [name for name, _ in registrations()]:
        raise ValueError(
            f"the script plugin does not know {hf_config.architectures[0]}; remove --plugin script "
            "to serve this model unpruned. `vllm-script doctor MODEL` says what it would need"
        )
    require(family_probes(hf_config.architectures[0].removeprefix("Script")))
    family = family_of(hf_config.architectures[0])
    family.check(engine_args, hf_config)
    if engine_args.enable_tower_connector_lora:
        raise ValueError(
            "the script plugin cannot prune behind LoRA adapters of the vision tower; remove "
            "--enable-tower-connector-lora (adapters of the language model work)"
        )
    if engine_args.ec_manager_config.encoder_cache_manager_cls is not None:
        raise ValueError(
            "the script plugin counts encoder work in an encoder cache manager of its own; remove "
            f"{engine_args.ec_manager_config.encoder_cache_manager_cls} from --ec-manager-config"
        )
    if engine_args.video_pruning_rate:
        raise ValueError(
            "--video-pruning-rate and the script plugin would prune one after the other; "
            "remove one of them"
        )
    if engine_args.mm_encoder_attn_dtype == "fp8" and not engine_args.mm_encoder_fp8_scale_path:
        raise ValueError(
            "--mm-encoder-attn-dtype fp8 with dynamic scales encodes an image by what was encoded "
            "before it, so that other tokens could be kept of it the next time; give fixed scales "
            "with --mm-encoder-fp8-scale-path (vLLM writes them with "
            "--mm-encoder-fp8-scale-save-path, without this plugin), or remove it"
        )
    check_connectors(engine_args)
    check_front_end(model_config, family.tokenizer_mode)


def check_tower(engine_args: EngineArgs, config: ScriptConfig, hf_config: Any) -> None:
    """Raise ValueError, before weights load, for a vision tower that cannot be thinned as asked.

    Args:
        hf_config: configuration of the pruned model.
    """
    if config.tower_keep == 1:
        return
    family = family_of(hf_config.architectures[0])
    if family.tower_layer is None:
        raise ValueError(
            "--script-tower-keep thins the vision tower, which the script plugin cannot do for "
            f"{hf_config.architectures[0].removeprefix('Script')}; leave it out"
        )
    if engine_args.mm_encoder_tp_mode == "data":
        raise ValueError(
            "--script-tower-keep cannot thin a vision tower that --mm-encoder-tp-mode data shares "
            "out among GPUs by images; leave one of the two out"
        )
    if engine_args.compilation_config.compile_mm_encoder:
        raise ValueError(
            "--script-tower-keep gives blocks of the vision tower sequences of two lengths, and "
            "compile_mm_encoder of --compilation-config may compile them for one; leave one out"
        )
    if (depth := family.tower_depth(hf_config)) < 2:
        raise ValueError(
            f"--script-tower-keep drops patches between the layers of the vision tower, of which "
            f"this model has {depth}; leave it out"
        )


def check_encoder(engine_args: EngineArgs, config: ScriptConfig) -> None:
    """Raise ValueError for an encoder of its own that could not prune, or not send what it kept."""
    transfer = engine_args.ec_transfer_config
    values = transfer if isinstance(transfer, Mapping) else vars(transfer) if transfer else {}
    connector = values.get("ec_connector")
    if connector not in (None, SENDS_ROWS):
        raise ValueError(
            f"the script plugin sends what it keeps of an image through {SENDS_ROWS} alone, and "
            f"--ec-transfer-config names {connector}; choose the other one"
        )
    alone = engine_args.mm_encoder_only or values.get("ec_role") == "ec_producer"
    if alone and config.relevance == "lm-attention":
        raise ValueError(
            "--script-relevance lm-attention reads the language model's first layer, which an "
            "encoder instance does not load; use clip, embedding or none, here and on the language "
            "model's side"
        )


def check_connectors(engine_args: EngineArgs) -> None:
    """Raise ValueError for a KV connector that would give what it has of one image to another.

    Also for one between peers that is told not to compare what they prune by.
    """
    transfer, size = engine_args.kv_transfer_config, engine_args.kv_offloading_size
    connectors = [] if transfer is None else list(kv_connectors(transfer))
    if size is not None and engine_args.kv_offloading_backend == "lmcache":
        connectors.append(({"LMCacheMPConnector"}, {}))  # the one that vLLM takes
    for names, options in connectors:
        reason = None
        if wrong := names & KEYED_BY_TOKENS:
            reason = f"{min(wrong)} keys by token ids alone, which are the same for all images"
        elif "LMCacheConnectorV1" in names and options.get("use_native"):
            reason = "LMCacheConnectorV1 with use_native keys by 16 bits of an image's identifier"
        if reason is not None:
            raise ValueError(
                f"the KV connector {reason}: it would answer about another image; use "
                "OffloadingConnector, SimpleCPUOffloadConnector or MooncakeStoreConnector, which "
                "key by vLLM's block hashes, or NixlConnector between prefill and decode"
            )
        if is_nixl(names) and not options.get("enforce_handshake_compat", True):
            raise ValueError(
                "enforce_handshake_compat: false lets NIXL read the KV cache of a peer that prunes "
                "otherwise, and answers would be wrong without an error; remove it, and give "
                "prefill and decode the same model, version and settings of the script plugin"
            )


def check_routes(engine_args: EngineArgs, config: ScriptConfig) -> None:
    """Raise ValueError where the engine would not say what explain and shadow mode need."""
    if (
        config.explain
        and (engine_args.worker_extension_cls or WORKER_EXTENSION) != WORKER_EXTENSION
    ):
        raise ValueError(
            "--script-explain asks the workers through --worker-extension-cls, which is "
            f"{engine_args.worker_extension_cls}; leave one of the two out"
        )
    if config.shadow is not None and not engine_args.logprobs_mode.endswith("_logprobs"):
        raise ValueError(
            "--script-shadow compares log probabilities, and --logprobs-mode "
            f"{engine_args.logprobs_mode} gives none; leave one of the two out"
        )


def summary(config: ScriptConfig, hf_config: Any) -> str:
    """What is done to images, in one line: the line that the server logs when it starts.

    Args:
        config: settings whose relevance is resolved.
        hf_config: configuration of the pruned model.
    """
    family = family_of(hf_config.architectures[0])
    example, layout = family.example(hf_config)
    total = layout.num_placeholders
    kept = make_plan(config, ()).num_kept(*layout.counts) or total
    amount = (
        f"keep ratio {config.keep_ratio:g}"
        if config.keep_ratio is not None
        else f"budget {config.visual_token_budget}"
    )
    relevance = config.relevance
    if relevance == "clip":
        relevance = f"clip of {config.clip_model}"
    tower = f", vision tower thinned to {config.tower_keep:g}" if config.tower_keep < 1 else ""
    pruned = "" if config.shadow is None else f" of copies, {config.shadow:g} of the requests"
    return (
        f"Script pruning{pruned}: {amount}, mode {config.mode}, relevance {relevance}{tower} "
        f"({example}: {total} -> {kept} visual tokens)"
    )
