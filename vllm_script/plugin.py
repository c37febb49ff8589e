"""The entry point: `register` runs in every vLLM process, before its configuration exists.

It registers architecture names and wraps the seams where pruning can be asked for. As long as
nobody asks, every class, log line and output is vLLM's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .config import ScriptConfig
from .extension import WORKER_EXTENSION
from .families import FAMILIES, family_of, pruned_name, registrations
from .patches import vllm as compat
from .plan import make_plan
from .relevance.source import resolve


def register() -> None:
    """Entry point `vllm.general_plugins`. Idempotent, imports no model, touches no device."""
    from vllm import ModelRegistry
    from vllm.engine.arg_utils import EngineArgs

    from .server import flags as cli

    for architecture, path in registrations():
        ModelRegistry.register_model(architecture, path)
    compat.wrap(EngineArgs, "create_model_config", _create_model_config)
    cli.install()


def _create_model_config(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_model_config(self: Any) -> Any:
        options = self.additional_config
        raw = options.get("script") if isinstance(options, dict) else None
        if raw is None:
            return original(self)
        from .server import explain, observe, shadow
        from .server import script_field as request

        reporting = getattr(self, "script_errors", contextlib.nullcontext)
        with reporting():
            compat.check_vllm()
            config = ScriptConfig.from_dict(raw)
            _expand_alias(self)
        user_overrides = self.hf_overrides
        self.hf_overrides = ConfigOverride(user_overrides)
        try:
            model_config = original(self)
        finally:
            self.hf_overrides = user_overrides
        model_config.hf_overrides = user_overrides
        with reporting():
            _check_supported(self, model_config)
            config = resolve(config, model_config.hf_config, model_config.model)
            _check_routes(self, config, model_config.hf_config)
        model_config.hf_config.vllm_script = config.to_dict()
        compat.use_renderer("vllm_script.frontend.renderer", "build_renderer")
        request.install()
        observe.install()
        if config.explain:
            explain.install()
        if config.shadow is not None:
            shadow.install()
        if not self.worker_extension_cls:  # the user's own wins; then worker metrics are missing
            self.worker_extension_cls = WORKER_EXTENSION
        _announce(config, model_config.hf_config)
        return model_config

    return create_model_config


def _expand_alias(engine_args: Any) -> None:
    from .server.aliases import repository_of, served_names

    if repository := repository_of(engine_args.model):
        names = served_names(engine_args.model, repository, engine_args.served_model_name)
        engine_args.model, engine_args.served_model_name = repository, names


@dataclass(frozen=True)
class ConfigOverride:
    """An `hf_overrides` callable: the user's overrides, then the name of our architecture.

    In place only while the model's configuration is built: vLLM treats a user's dict otherwise
    than a callable, for quantisation and for draft models.
    """

    user: Any
    """What the user gave as `hf_overrides`: a callable or a dict, perhaps with nested dicts."""

    def __call__(self, hf_config: Any) -> Any:
        if callable(self.user):
            hf_config = self.user(hf_config)
        else:
            _update(hf_config, self.user or {})
        architectures = getattr(hf_config, "architectures", None) or [None]
        if architectures[0] in FAMILIES:
            hf_config.architectures = [pruned_name(architectures[0])]
        return hf_config


def _update(target: Any, values: Mapping[str, Any]) -> None:
    """Set attributes, descending into configurations below, as vLLM does with a dict."""
    for name, value in values.items():
        below = getattr(target, name, None)
        if isinstance(value, Mapping) and hasattr(below, "to_dict"):
            _update(below, value)
        else:
            setattr(target, name, value)


def _check_supported(engine_args: Any, model_config: Any) -> None:
    """Raise ValueError, before weights load, for what pruning would get wrong."""
    hf_config = model_config.hf_config
    if hf_config.architectures[0] not in [name for name, _ in registrations()]:
        raise ValueError(
            f"the script plugin does not know {hf_config.architectures[0]}; it prunes images of "
            f"{', '.join(FAMILIES)}. Remove --plugin script to serve this model unpruned."
        )
    family = family_of(hf_config.architectures[0])
    compat.check_family(hf_config.architectures[0].removeprefix("Script"))
    family.check(engine_args, hf_config)
    if engine_args.enable_tower_connector_lora:
        raise ValueError(
            "the script plugin cannot prune behind LoRA adapters of the vision tower; remove "
            "--enable-tower-connector-lora (adapters of the language model work)"
        )
    if engine_args.mm_encoder_only or engine_args.ec_transfer_config is not None:
        raise ValueError(
            "the script plugin cannot prune in an encoder of its own (--mm-encoder-only, "
            "--ec-transfer-config): relevance reads the language model's embeddings"
        )
    if engine_args.video_pruning_rate:
        raise ValueError(
            "--video-pruning-rate and the script plugin would prune one after the other; "
            "remove one of them"
        )
    compat.check_front_end(model_config)


def _check_routes(engine_args: Any, config: ScriptConfig, hf_config: Any) -> None:
    """Raise ValueError where the engine would not say what explain and shadow mode need."""
    if config.explain and "image" not in family_of(hf_config.architectures[0]).modalities:
        raise ValueError(
            "--script-explain draws what is kept of images, and this model takes videos alone; "
            "remove it"
        )
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


def _announce(config: ScriptConfig, hf_config: Any) -> None:
    from vllm.logger import init_logger

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
    pruned = "" if config.shadow is None else f" of copies, {config.shadow:g} of the requests"
    init_logger("vllm.script").info_once(
        "Script pruning%s: %s, mode %s, relevance %s (%s: %d -> %d visual tokens)",
        *(pruned, amount, config.mode, relevance, example, total, kept),
    )
