"""The entry point: `register` runs in every vLLM process, before its configuration exists.

It registers architecture names and wraps the functions where pruning can be asked for. As long as
nobody asks, every class, log line and output is vLLM's own. On a vLLM that the plugin does not know
it registers and wraps nothing, but whoever asks is told.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .config import ScriptConfig
from .families import FAMILIES, family_of, pruned_name, registrations
from .patches import overrides, supported
from .patches.engine_args import wrap_model_config
from .patches.probing import EXISTS, Probes, require
from .patches.renderer_registry import check_front_end, use_renderer
from .plan import make_plan
from .relevance.source import resolve
from .worker.extension import WORKER_EXTENSION

logger = logging.getLogger("vllm.script")

OURS: Probes = {
    "vllm_script.frontend.renderer:build_renderer": EXISTS,
    "vllm_script.server.explain:install": EXISTS,
    "vllm_script.server.observe:install": EXISTS,
    "vllm_script.server.script_field:install": EXISTS,
    "vllm_script.server.shadow:install": EXISTS,
}
"""Our own modules of the front end: importing them shows whether vLLM has what they import."""


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
    wrap_model_config(_create_model_config)
    flags.install()


def _create_model_config(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_model_config(self: Any) -> Any:
        options = self.additional_config
        raw = options.get("script") if isinstance(options, dict) else None
        if raw is None:
            return original(self)
        reporting = getattr(self, "script_errors", contextlib.nullcontext)
        with reporting():
            check_vllm()
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
        from .server import explain, observe, script_field, shadow

        use_renderer("vllm_script.frontend.renderer", "build_renderer")
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


def check_vllm() -> None:
    """Raise RuntimeError, in one line, unless this vLLM has what the front end uses of it."""
    if problem := supported.start_up_problem():
        raise RuntimeError(problem)
    require({**supported.FRONT_END, **OURS})


def family_probes(architecture: str) -> Probes:
    """Probes of what a family uses of vLLM, and of its module, by the stock architecture."""
    ours = dict(registrations())[pruned_name(architecture)]
    return {**overrides.FAMILIES[architecture], ours: EXISTS}


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
    require(family_probes(hf_config.architectures[0].removeprefix("Script")))
    family = family_of(hf_config.architectures[0])
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
    check_front_end(model_config)


def _check_routes(engine_args: Any, config: ScriptConfig, hf_config: Any) -> None:
    """Raise ValueError where the engine would not say what explain and shadow mode need."""
    if config.explain and not hasattr(family_of(hf_config.architectures[0]), "patch_views"):
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

    init_logger("vllm.script").info_once(summary(config, hf_config))


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
    pruned = "" if config.shadow is None else f" of copies, {config.shadow:g} of the requests"
    return (
        f"Script pruning{pruned}: {amount}, mode {config.mode}, relevance {relevance} "
        f"({example}: {total} -> {kept} visual tokens)"
    )
