"""CLIP relevance: patches of the vision tower against the query, in the space that CLIP shares.

LLaVA keeps CLIP's vision tower up to the layer it reads and drops the rest. What relevance needs of
the rest is here: the text tower, and the layer norm and projection that lead patches to its space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from cachetools import LRUCache
from torch import nn

from ..kernels import Backend, largest_relevance, query_relevance, to_device

CACHED_QUERIES = 1024
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class ClipRelevance(nn.Module):
    """The parts of a CLIP checkpoint that LLaVA drops. Replicated on every rank.

    The weights are buffers that are not saved with the model, so that vLLM treats them right by its
    own rules: no loader looks for them, fills them or misses them, a reload puts them back as they
    were, and over sleep level 2, when memory is given away, they are saved and restored.

    Args:
        config: transformers' CLIPConfig; its `patch_polarity` ("positive" or, by default,
            "negative") says what a high cosine of patch and text means in this checkpoint.
        weights: those of the checkpoint by their published names, as checkpoint.py reads them.
        dtype, device: of the weights here, whatever the checkpoint has or its configuration names.
        backend: of the operations of kernels/.

    Raises:
        ValueError: a weight is missing or has another shape than the configuration says.
    """

    def __init__(
        self,
        config: Any,
        weights: Mapping[str, torch.Tensor],
        dtype: torch.dtype,
        device: torch.device | str,
        backend: Backend = "auto",
    ) -> None:
        from transformers import CLIPTextModelWithProjection

        super().__init__()
        vision, text = config.vision_config, config.text_config
        text.projection_dim = config.projection_dim
        with torch.device(device):
            self.text = CLIPTextModelWithProjection(text)
            self.post_layernorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
            self.visual_projection = nn.Linear(
                vision.hidden_size, config.projection_dim, bias=False
            )
        self.polarity = polarity_of(config)
        self._backend = backend
        self._text_embeds: LRUCache[Any, torch.Tensor] = LRUCache(CACHED_QUERIES)
        self._load(weights, dtype, device)
        self.eval()
        self._sums = self._checksums()

    def _load(
        self,
        weights: Mapping[str, torch.Tensor],
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """Replace every parameter by a buffer with the checkpoint's weight."""
        found = {_renamed(name): weight for name, weight in weights.items()}
        expected = {name: value.shape for name, value in self.named_parameters()}
        if wrong := [n for n in expected if n not in found or found[n].shape != expected[n]]:
            raise ValueError(
                f"the CLIP checkpoint lacks {len(wrong)} of {len(expected)} weights, or has them "
                f"in other shapes, such as {wrong[0]}; name one that is whole with "
                "--script-clip-model, or use --script-relevance embedding"
            )
        for name in expected:
            path, _, leaf = name.rpartition(".")
            module = self.get_submodule(path)
            delattr(module, leaf)
            weight = found[name].to(device, dtype, copy=True)
            module.register_buffer(leaf, weight, persistent=False)
        for buffer in self.buffers():
            # vLLM warns of a reload that brings less of a layer than this, in elements.
            buffer.weight_loader_numel = 0  # type: ignore[attr-defined]

    def _checksums(self) -> list[int]:
        """Sum of each weight's bits, read as integers: exact, in whatever order they are added."""
        bits = [each.view(_INTEGERS[each.itemsize]) for each in self.buffers()]
        return torch.stack([each.sum(dtype=torch.int64) for each in bits]).tolist()

    def check(self) -> None:
        """Raise RuntimeError where the weights are not those that were loaded.

        A model loader that takes tensors from another process or a file of its own can have brought
        those of another CLIP.
        """
        if self._checksums() != self._sums:
            raise RuntimeError(
                "the weights of CLIP are not those of its checkpoint: the model loader "
                "(--load-format) has replaced them; save what it loads anew, by a server with the "
                "same --script-clip-model, or use another load format"
            )

    def forward(
        self, patch_states: torch.Tensor, query: Sequence[Sequence[tuple[int, ...]]]
    ) -> torch.Tensor:
        """Score the patches of one image against some questions: what one finds relevant is.

        Args:
            patch_states: [N, H] of the tower, all tiles of the image: they are scaled together.
            query: of each question the token ids of its windows, with BOS and EOS.

        Returns:
            relevance [N] float32, high = keep, as `vllm_script.kernels.normalize_relevance` scales
            it.

        Source: TRIM and CDPruner found the sign; Theia-4869/CDPruner@9541616 has the formula.
        """
        image_embeds = self.visual_projection(self.post_layernorm(patch_states))
        embeds = map(self.text_embeds, query)
        return largest_relevance(
            [query_relevance(image_embeds, e, self.polarity, backend=self._backend) for e in embeds]
        )

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


def _renamed(name: str) -> str:
    """The name here of a weight of a CLIP checkpoint."""
    below = "text." if name.startswith("text_") else ""
    return below + name.removeprefix("vision_model.")


def polarity_of(config: Any) -> int:
    """Return what a high cosine of patch and text says, from a CLIP checkpoint's configuration.

    Returns:
        -1 where a low cosine means relevant, as with OpenAI's CLIP, whose patches never learned to
        match text; +1 for a CLIP that was trained to match them.
    """
    return 1 if getattr(config, "patch_polarity", "negative") == "positive" else -1
