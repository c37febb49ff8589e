"""What a family would have to know of a model of no family, for `vllm-script doctor MODEL`.

Everything here is asked of stock vLLM: its class of the model, and what its processor makes of one
picture. README.md of vllm_script/families/ says what to do with the answers.
"""

from __future__ import annotations

import json
from typing import Any

from vllm_script.families import FAMILIES

TOWER_TYPES = ("vision_config", "vit_config", "vision_encoder", "vision_tower")
"""Names under which a model's configuration may keep that of its vision tower."""


class UnfamiliarModel:
    """A model as stock vLLM has it.

    Args:
        model_config: vLLM's `ModelConfig`, of a start without pruning.
    """

    def __init__(self, model_config: Any) -> None:
        from vllm.model_executor.model_loader.utils import get_model_cls

        self._config = model_config
        self._class = get_model_cls(model_config)

    def relative(self) -> str:
        """vLLM's class, and whether one that is pruned today is among its bases."""
        from vllm.model_executor.models import ModelRegistry

        pruned = {
            (known.module_name, known.class_name): architecture
            for architecture in FAMILIES
            if (known := ModelRegistry.models.get(architecture)) is not None
        }
        line = [pruned.get((base.__module__, base.__name__)) for base in self._class.__mro__]
        nearest = next((architecture for architecture in line if architecture), None)
        where = f"{self._class.__module__}.{self._class.__name__}"
        if nearest is None:
            return f"{where}, which extends no class that is pruned today: a family of its own"
        if line[0]:
            overrides = json.dumps({"architectures": [nearest]})
            return f"{where}, which vLLM runs {nearest} with, too: try --hf-overrides '{overrides}'"
        return (
            f"{where}, a subclass of that of {nearest}: most likely a class beside Script{nearest} "
            f"in families/{FAMILIES[nearest]}.py, once what it overrides has been compared"
        )

    def positions(self) -> str:
        """Whether a token's position is one number or three."""
        from vllm.model_executor.models import supports_mrope

        if supports_mrope(self._class):
            return "M-RoPE, three a token: subclass MRopeFamily, and give the coordinates"
        return "one number a token: the kept tokens close up, nothing to do"

    def tower(self) -> str:
        """The vision tower's type, and whether the language model takes rows of other layers."""
        config = self._config.hf_config
        towers = (getattr(config, name, None) for name in TOWER_TYPES)
        kind = next(
            (str(getattr(t, "model_type", "") or "unnamed") for t in towers if t), "unknown"
        )
        wide = getattr(self._class, "use_deepstack", None) or hasattr(
            getattr(config, "vision_config", None), "deepstack_visual_indexes"
        )
        deep = "; rows also enter later layers (deepstack): prune them together" if wide else ""
        clip = "; CLIP could score its patches" if kind == "clip_vision_model" else ""
        return f"{kind}{deep}{clip}"

    def layout(self) -> str:
        """How many tokens the largest picture has, in how many runs, with what between them."""
        from vllm.multimodal import MULTIMODAL_REGISTRY

        processor = MULTIMODAL_REGISTRY.create_processor(self._config)
        found = []
        for modality in processor.info.get_supported_mm_limits():
            if modality not in ("image", "video"):
                continue
            inputs = processor.get_dummy_mm_inputs({modality: 1})
            (span,) = inputs["mm_placeholders"][modality]
            runs = span.extract_embeds_range()
            between = span.length - span.get_num_embeds()
            found.append(
                f"the largest {modality} has {span.get_num_embeds():,} visual tokens in "
                f"{len(runs):,} run{'s' if len(runs) > 1 else ''}"
                + (f", with {between:,} other tokens around and between them" if between else "")
            )
        return "; ".join(found) or "no images and no videos: nothing to prune"
