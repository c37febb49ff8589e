"""CLIP relevance: patches of the vision tower against the query, in the space that CLIP shares.

LLaVA keeps CLIP's vision tower up to the layer it reads and drops the rest. What relevance needs of
the rest is here: the text tower, and the layer norm and projection that lead patches to its space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from cachetools import LRUCache
from torch import nn

from ..kernels import query_relevance, to_device

CACHED_QUERIES = 1024

# Weight name in a CLIP checkpoint -> ours, by prefix. The other weights are the tower's own.
_RENAMED = {
    "text_model.": "text.text_model.",
    "text_projection.": "text.text_projection.",
    "vision_model.post_layernorm.": "post_layernorm.",
    "visual_projection.": "visual_projection.",
}


class ClipRelevance(nn.Module):
    """The parts of a CLIP checkpoint that LLaVA drops. Replicated on every rank.

    Args:
        config: transformers' CLIPConfig; its `patch_polarity` ("positive" or, by default,
            "negative") says what a high cosine of patch and text means in this checkpoint.
    """

    def __init__(self, config: Any) -> None:
        from transformers import CLIPTextModelWithProjection

        super().__init__()
        vision, text = config.vision_config, config.text_config
        text.projection_dim = config.projection_dim
        self.text = CLIPTextModelWithProjection(text)
        self.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.visual_projection = nn.Linear(vision.hidden_size, config.projection_dim, bias=False)
        self.polarity = polarity_of(config)
        self._text_embeds: LRUCache[Any, torch.Tensor] = LRUCache(CACHED_QUERIES)
        self.requires_grad_(False).eval()

    def forward(
        self, patch_states: torch.Tensor, windows: Sequence[tuple[int, ...]]
    ) -> torch.Tensor:
        """Score the patches of one image against the windows of a query.

        Args:
            patch_states: [N, H] of the tower, all tiles of the image: they are scaled together.
            windows: token ids of each window, with BOS and EOS.

        Returns:
            relevance [N] float32, high = keep, as `vllm_script.kernels.normalize_relevance` scales
            it.

        Source: TRIM and CDPruner found the sign; Theia-4869/CDPruner@9541616 has the formula.
        """
        image_embeds = self.visual_projection(self.post_layernorm(patch_states))
        return query_relevance(image_embeds, self.text_embeds(windows), self.polarity)

    def text_embeds(self, windows: Sequence[tuple[int, ...]]) -> torch.Tensor:
        """Projected text embeddings [M, C], one row a window; the last queries are remembered."""
        key = tuple(windows)
        if key not in self._text_embeds:
            self._text_embeds[key] = self._encode(key)
        return self._text_embeds[key]

    def _encode(self, windows: Sequence[tuple[int, ...]]) -> torch.Tensor:
        device = self.visual_projection.weight.device
        longest = max(map(len, windows))
        # Behind its EOS a window is filled up with EOS: attention is causal, nothing looks there.
        filled = [[*window, *[window[-1]] * (longest - len(window))] for window in windows]
        states = self.text.text_model(to_device(torch.tensor(filled), device)).last_hidden_state
        ends = to_device(torch.tensor([len(window) - 1 for window in windows]), device)
        rows = torch.arange(len(windows), device=device)
        pooled = states[rows, ends]  # at each window's EOS
        projected: torch.Tensor = self.text.text_projection(pooled)
        return projected

    def load_weight(self, name: str, weight: torch.Tensor) -> str | None:
        """Load one weight of the checkpoint; its name here, or None where it is not ours."""
        for published, ours in _RENAMED.items():
            if name.startswith(published):
                name = ours + name.removeprefix(published)
                parameters = dict(self.named_parameters())
                if name in parameters:  # older checkpoints also store position ids
                    parameters[name].data.copy_(weight)
                    return name
        return None


def polarity_of(config: Any) -> int:
    """Return what a high cosine of patch and text says, from a CLIP checkpoint's configuration.

    Returns:
        -1 where a low cosine means relevant, as with OpenAI's CLIP, whose patches never learned to
        match text; +1 for a CLIP that was trained to match them.
    """
    return 1 if getattr(config, "patch_polarity", "negative") == "positive" else -1
