"""The entry point: `register` runs in every vLLM process, before its configuration exists.

It registers architecture names and wraps the functions where pruning can be asked for. As long as
nobody asks, every class, log line and output is vLLM's own. On a vLLM that the plugin does not know
it registers nothing, and wraps only what tells whoever asks.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .checks import (
    SENDS_ROWS,
    check_encoder,
    check_kernels,
    check_routes,
    check_supported,
    check_tower,
    check_vllm,
    summary,
)
from .config import ScriptConfig
from .extension import WORKER_EXTENSION
from .families import FAMILIES, family_of, pruned_name, registrations
from .patches import supported
from .patches.config_handlers import handle_as
from .patches.engine_args import is_asked, wrap_configs
from .patches.renderer_registry import use_renderers
from .relevance.checkpoint import clip_digest
from .relevance.source import resolve
from .vllm_types import EngineArgs

logger = logging.getLogger("vllm.script")

ENCODER_CACHE_MANAGER = "vllm_script.worker.encoder_work.ScriptEncoderCacheManager"
"""What the scheduler asks whether an item may be encoded in a step, as vLLM imports it."""

ROW_STORE = ("vllm_script.worker.row_store", "RowStore")
"""What stands in for vLLM's example connector between an encoder and a language model: module and
class."""


def register() -> None:
    """Entry point `vllm.general_plugins`: it never raises, for an exception would end the process.

    Idempotent; imports no model and touches no device.
    """
    try:
        _register()
    except Exception:
        logger.debug("the script plugin keeps out of this vLLM", exc_info=True)


def _register() -> None:
    from .server import flags

    if problem := supported.start_up_problem():
        logger.debug("the script plugin keeps out: %s", problem)
        flags.refuse(problem)
        return
    from vllm import ModelRegistry

    for architecture, path in registrations():
        ModelRegistry.register_model(architecture, path)
    wrap_configs(_create_model_config, _create_engine_config)
    flags.install()


def _create_model_config(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_model_config(self: EngineArgs) -> Any:
        options = self.additional_config
        raw = options.get("script") if isinstance(options, dict) else None
        if raw is None:
            return original(self)
        reporting = getattr(self, "script_errors", contextlib.nullcontext)
        with reporting():
            check_vllm()
            config = ScriptConfig.from_dict(raw)
            handle_as((stock, pruned_name(stock)) for stock in FAMILIES)
            _expand_alias(self)
        user_overrides = self.hf_overrides
        self.hf_overrides = ConfigOverride(user_overrides)
        try:
            model_config = original(self)
        finally:
            self.hf_overrides = user_overrides
        model_config.hf_overrides = user_overrides
        with reporting():
            check_supported(self, model_config)
            check_kernels(config)
            check_encoder(self, config)
            check_tower(self, config, model_config.hf_config)
            if config.tower_keep < 1 and config.tower_layer is None:
                family = family_of(model_config.hf_config.architectures[0])
                config = replace(config, tower_layer=family.tower_layer)
            config = resolve(config, model_config.hf_config, model_config.model)
            check_routes(self, config)
            if config.clip_model is not None:
                config = replace(config, clip_digest=clip_digest(config.clip_model))
        model_config.vllm_script = config.to_dict()
        from .server import explain, observe, script_field, shadow

        use_renderers("vllm_script.frontend.renderer")
        script_field.install()
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


def _create_engine_config(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_engine_config(self: EngineArgs, *args: Any, **kwargs: Any) -> Any:
        vllm_config = original(self, *args, **kwargs)
        if is_asked(self):
            vllm_config.ec_manager_config = replace(
                vllm_config.ec_manager_config, encoder_cache_manager_cls=ENCODER_CACHE_MANAGER
            )
            if (transfer := vllm_config.ec_transfer_config) and transfer.ec_connector == SENDS_ROWS:
                transfer.ec_connector_module_path, transfer.ec_connector = ROW_STORE
            # The model's configuration has the settings. Here they would be part of the key that
            # vLLM caches the compiled language model by, and it does not depend on them.
            options = {k: v for k, v in vllm_config.additional_config.items() if k != "script"}
            vllm_config.additional_config = options
        return vllm_config

    return create_engine_config


def _expand_alias(engine_args: EngineArgs) -> None:
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


def _announce(config: ScriptConfig, hf_config: Any) -> None:
    from vllm.logger import init_logger

    init_logger("vllm.script").info_once(summary(config, hf_config))
