"""Two linear maps that bring a vision tower and a text tower, both frozen, into one space.

With them a tower that knows no text has a relevance, as CLIP has: train_text_map.py learns the maps
from captions. A picture is the mean of its tokens there, so the same map scores single tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from vllm_script.kernels import query_relevance


class TextMap(NamedTuple):
    """The learned maps, and what they were learned for."""

    about: dict[str, str]
    """Towers, layer, data, and how well it finds held-out photographs by their captions."""
    mean: torch.Tensor
    """[D] of the features of training photographs."""
    std: torch.Tensor
    """[D] of them."""
    image: torch.Tensor
    """[C, D]: from standardised features to the common space."""
    text: torch.Tensor
    """[C, T]: from sentence embeddings to the common space."""

    def relevance(self, tokens: torch.Tensor, sentences: torch.Tensor) -> torch.Tensor:
        """Relevance [N], high = keep, of tokens [N, D] to sentence embeddings [M, T]."""
        return query_relevance(self.images(tokens), sentences @ self.text.T)

    def images(self, features: torch.Tensor) -> torch.Tensor:
        """Features [N, D] of pictures or of tokens in the common space, [N, C]."""
        return (features - self.mean) / self.std @ self.image.T

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name).contiguous() for name in self._fields[1:]}
        save_file(tensors, path, metadata={"about": json.dumps(self.about)})

    @classmethod
    def load(cls, path: Path) -> TextMap:
        """Read what `save` has written.

        Raises:
            ValueError: the file is none.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                about = json.loads(file.metadata()["about"])
                return cls(about, *(file.get_tensor(name) for name in cls._fields[1:]))
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no map of train_text_map.py: {error}") from None


class Sentences:
    """A text tower that transformers loads: the mean of its last states, of length 1.

    Args:
        name: folder or repository, such as sentence-transformers/all-MiniLM-L6-v2.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            self._model: Any = AutoModel.from_pretrained(name, dtype=torch.float32).eval()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"the text tower {name} cannot be loaded: {reason}") from None

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings [M, T] of texts."""
        batch = self._tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True)
        states = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        return functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
