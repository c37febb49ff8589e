"""Everything of vLLM that is private or patched, in one place.

Ledger. Each entry: what it is / Why / Upstream / Remove when.

1. `EngineArgs.create_model_config`, wrapped by plugin.py
   Why: processors see only `model_config`, so settings and the name of our architecture must be
   put into it while it is built.
   Upstream: none. Remove when: a plugin may contribute to the configuration.
2. `EngineArgs.add_cli_args` and `from_cli_args`, wrapped by server/flags.py
   Why: flags of a plugin in vLLM's own parser.
   Upstream: none. Remove when: general plugins may add arguments.
3. `build_chat_params` of ChatCompletionRequest, ResponsesRequest and TokenizeChatRequest, wrapped
   by server/script_field.py
   Why: they accept extra fields and drop them; `script` has to reach the renderer.
   Upstream: none. Remove when: extra fields reach the renderer.
4. `RENDERER_REGISTRY.renderers["hf"]`, replaced when pruning is asked for
   Why: `register()` does the same and warns about it at every start.
   Remove when: a renderer can be chosen by configuration.
5. `_merge_image_patch_embeddings` of LLaVA-NeXT and LLaVA-OneVision, called on patch numbers
   Why: the map from rows to patches must follow vLLM's own merge and unpadding.
   Remove when: vLLM exposes that map.
6. `reset_encoder_cache` of the model runner, wrapped by worker/model.py
   Why: it says that the weights are new or about to go (reload, sleep, the operator's command),
   and what the model remembers of images must go with them.
   Upstream: none. Remove when: vLLM tells the model.
7. `init_entrypoints_middleware` of the API server's launcher, wrapped by `extend_app`
   Why: worker figures belong on /metrics, and explain is a route; vLLM's own way, an endpoint
   plugin, must be named in the environment and warns at every start.
   Upstream: endpoint plugins. Remove when: they load like general plugins.
8. `is_multimodal_pruning_enabled` of the worker's MultiModalConfig, answered for M-RoPE models
   Why: it switches on `recompute_mrope_positions`, without which pruned tokens would get the
   positions of others; vLLM's own answer is yes only where --video-pruning-rate is set. Model
   runner V2 and V1 on CUDA ask after the model is built. V1 on the CPU never asks, so its
   `_gather_mm_embeddings` is wrapped to ask.
   Upstream: none. Remove when: a model can say so itself.
9. `render_chat_request` and `_maybe_get_adapters` of the chat handler, called by server/ask.py and
   `lora_of`
   Why: our own routes take chat requests, with every check that vLLM makes of them.
   Remove when: vLLM renders chats for endpoint plugins.
10. Overridden steps of the processor, the renderer and the models: see probes.py.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import operator
from collections.abc import Callable
from typing import Any

from .probes import FAMILY_PROBES, PROBES, Probes

SUPPORTED_VLLM = "0.32"


def check_vllm() -> None:
    """Raise RuntimeError, in one line, unless this vLLM is one that the plugin was written for."""
    import vllm

    if not vllm.__version__.startswith(f"{SUPPORTED_VLLM}."):
        raise RuntimeError(_unsupported(f"this is {vllm.__version__}"))
    _check(PROBES)


def check_family(architecture: str) -> None:
    """Raise RuntimeError unless the probes of a stock architecture hold."""
    _check(FAMILY_PROBES[architecture])


def _check(probes: Probes) -> None:
    for path, expected in probes.items():
        if problem := _misfit(path, expected):
            raise RuntimeError(_unsupported(problem))


def _unsupported(problem: str) -> str:
    return f"the script plugin supports vLLM {SUPPORTED_VLLM}.x: {problem}"


def _misfit(path: str, expected: tuple[str, ...]) -> str | None:
    """What is wrong with the method at "module:Class.method", None if nothing is."""
    module_name, _, name = path.partition(":")
    try:
        function = operator.attrgetter(name)(importlib.import_module(module_name))
    except (ImportError, AttributeError) as error:
        return str(error)
    found = tuple(inspect.signature(function).parameters)
    found = found[1:] if found[:1] == ("self",) else found
    return None if found == expected else f"{name} takes {found}, not {expected}"


def check_front_end(model_config: Any) -> None:
    """Raise ValueError where prompts would not pass through our renderer."""
    from vllm import envs
    from vllm.tokenizers.registry import tokenizer_args_from_config

    mode = tokenizer_args_from_config(model_config)[0]
    if mode != "hf":
        raise ValueError(
            f"the script plugin needs Hugging Face's tokenizer and chat template, this model has "
            f"{mode!r}; start with --tokenizer-mode hf"
        )
    if envs.VLLM_USE_RUST_FRONTEND:
        raise ValueError(
            "the script plugin does not work behind vLLM's Rust front end; "
            "unset VLLM_USE_RUST_FRONTEND"
        )


def wrap(owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Any]) -> None:
    """Replace `owner.name` by `wrapper(original)`, once in the life of the process."""
    original = inspect.getattr_static(owner, name)
    function = getattr(original, "__func__", original)  # below a classmethod or staticmethod
    if getattr(function, "wrapped_by_script", False):
        return
    wrapped: Any = functools.wraps(function)(wrapper(function))
    wrapped.wrapped_by_script = True
    kind = type(original) if function is not original else lambda f: f
    setattr(owner, name, kind(wrapped))


def on_encoder_cache_reset(vllm_config: Any, method: str) -> None:
    """Have the model runner call `method` of a model that has it whenever it forgets encodings."""
    if vllm_config.use_v2_model_runner:
        from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    else:
        from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def reset_encoder_cache(self: Any) -> None:
            original(self)
            getattr(self.get_model(), method, lambda: None)()

        return reset_encoder_cache

    wrap(GPUModelRunner, "reset_encoder_cache", wrapper)


_app_extensions: list[Callable[[Any], None]] = []


def extend_app(extension: Callable[[Any], None]) -> None:
    """Have every API server that is built from now on pass its FastAPI app to `extension`."""
    from vllm.entrypoints.launchers import app as launcher

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def init_entrypoints_middleware(args: Any, app: Any, supported_tasks: Any) -> None:
            original(args, app, supported_tasks)
            for extend in _app_extensions:
                extend(app)

        return init_entrypoints_middleware

    if extension not in _app_extensions:
        _app_extensions.append(extension)
    wrap(launcher, "init_entrypoints_middleware", wrapper)


def lora_of(chat: Any, request: Any) -> Any:
    """The LoRA adapter that vLLM's chat handler would answer `request` with, None for none."""
    return chat._maybe_get_adapters(request, supports_default_mm_loras=True)


def use_renderer(module: str, factory: str) -> None:
    """Have vLLM build its Hugging Face renderers with `module.factory(config, tokenizer)`."""
    from vllm.renderers.registry import RENDERER_REGISTRY

    RENDERER_REGISTRY.renderers["hf"] = (module, factory)


def _yes() -> bool:
    return True


def expect_position_channels(multimodal_config: Any) -> None:
    """Have whoever asks know that rows carry positions for `recompute_mrope_positions`."""
    object.__setattr__(multimodal_config, "is_multimodal_pruning_enabled", _yes)


def ask_for_position_channels(vllm_config: Any) -> None:
    """Have model runner V1 ask on every platform."""
    if vllm_config.use_v2_model_runner:
        return
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def _gather_mm_embeddings(self: Any, *args: Any, **kwargs: Any) -> Any:
            config, model = self.model_config.multimodal_config, self.get_model()
            self.is_multimodal_pruning_enabled = (
                getattr(model, "supports_multimodal_pruning", False)
                and config.is_multimodal_pruning_enabled()
            )
            return original(self, *args, **kwargs)

        return _gather_mm_embeddings

    wrap(GPUModelRunner, "_gather_mm_embeddings", wrapper)
