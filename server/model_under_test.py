"""What pruning would do with a model, for `vllm-script doctor MODEL`; no weights are loaded."""

from __future__ import annotations

import contextlib
import pathlib
from dataclasses import replace
from typing import Any

from vllm_script.config import ScriptConfig

from .aliases import repository_of
from .report import Wrong, quiet
from .unfamiliar import UnfamiliarModel


class ModelUnderTest:
    """What pruning would do with a model, found as `vllm serve` finds it when it starts.

    Args:
        model: what the user gave: a folder, a repository or a short name.
        trust_remote_code: as in vllm serve.
    """

    def __init__(self, model: str, trust_remote_code: bool) -> None:
        self._model, self._trust_remote_code = model, trust_remote_code
        self._config: Any = None

    def name(self) -> str:
        """Name and architecture; makes vLLM's configuration, with every check of the plugin's."""
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        try:
            self._config = self._arguments({"script": {}}).create_engine_config()
        except (ValueError, RuntimeError) as error:
            raise Wrong(_reason(error)) from None
        runner = "V2" if self._config.use_v2_model_runner else "V1"
        architecture = self._config.model_config.architecture.removeprefix("Script")
        return f"{self._shown}: {architecture}, model runner {runner}"

    def unfamiliar(self) -> UnfamiliarModel | None:
        """The model as stock vLLM has it, where that takes pictures and no family serves it."""
        from vllm_script.families import FAMILIES

        # The check of its name has said already what is wrong.
        with quiet(), contextlib.suppress(Exception):
            config = self._arguments({}).create_model_config()
            if config.is_multimodal_model and config.architecture not in FAMILIES:
                return UnfamiliarModel(config)
        return None

    def relevance(self) -> str:
        """Where relevance would come from."""
        settings = self._settings()
        source: dict[str, str] = {
            "clip": f"clip, with {self._clip(settings)}",
            "embedding": "embedding, the language model's own for the words of the question",
            "lm-attention": "lm-attention, the language model's first layer",
        }
        return source.get(settings.relevance, "none: one selection for all questions")

    @property
    def has_clip(self) -> bool:
        """Whether a request may take relevance from CLIP."""
        return self._settings().clip_model is not None

    def polarity(self) -> str:
        """What a high cosine of patch and text means in this CLIP, configured and measured.

        It is measured with the tower of the CLIP checkpoint, at the layer that the model reads.
        """
        import torch
        from transformers import CLIPModel

        from vllm_script.relevance.checkpoint import read
        from vllm_script.relevance.clip import ClipRelevance
        from vllm_script.relevance.polarity import measure_polarity

        clip_model = self._settings().clip_model
        assert clip_model is not None, "asked of a model that has a CLIP"
        model = CLIPModel.from_pretrained(clip_model, dtype=torch.float32).eval()
        layer = self._config.model_config.hf_config.vision_feature_layer
        vision = model.config.vision_config

        def states_of(pixels: torch.Tensor) -> torch.Tensor:
            states = model.vision_model(pixels, output_hidden_states=True).hidden_states
            patches: torch.Tensor = states[layer][:, 1:]
            return patches

        clip = ClipRelevance(model.config, read(clip_model).weights, torch.float32, "cpu")
        sizes = vision.image_size, vision.patch_size
        measured = measure_polarity(clip, clip_model, states_of, *sizes)
        if measured.is_right is False:
            raise Wrong(str(measured))
        return str(measured)

    def pruning(self) -> str:
        """The line that a server logs when it starts."""
        from vllm_script.checks import summary

        settings = self._settings()
        shown = replace(settings, clip_model=settings.clip_model and self._clip(settings))
        return summary(shown, self._config.model_config.hf_config)

    def _arguments(self, additional_config: dict[str, Any]) -> Any:
        """vLLM's `EngineArgs` for the model."""
        from vllm.engine.arg_utils import EngineArgs

        return EngineArgs(
            model=repository_of(self._model) or self._model,
            additional_config=additional_config,
            trust_remote_code=self._trust_remote_code,
        )

    def _settings(self) -> ScriptConfig:
        """The settings in force, with relevance resolved."""
        return ScriptConfig.of(self._config.model_config)

    @property
    def _shown(self) -> str:
        folder = pathlib.Path(self._model)
        return folder.resolve().name if folder.exists() else self._model

    def _clip(self, settings: Any) -> str:
        clip = pathlib.Path(settings.clip_model or "")
        model = pathlib.Path(self._config.model_config.model)
        if model.resolve() in clip.resolve().parents:
            return f"the {clip.name} folder of the model"
        return clip.name if clip.exists() else str(settings.clip_model)


def _reason(error: Exception) -> str:
    """What an error of vLLM's configuration says, without what pydantic writes around it."""
    lines = str(error).strip().splitlines()
    values = (line.partition("Value error, ")[2].partition(" [type=")[0] for line in lines)
    return next((value for value in values if value), lines[0])
