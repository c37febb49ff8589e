"""script-demo through transformers: a picture encoded once, answers for many selections of it.

For the ablation, which asks the same question twenty times about differently pruned rows. What is
served is measured by accuracy_bench.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig

from vllm_script.kernels import query_relevance
from vllm_script.relevance.checkpoint import read
from vllm_script.relevance.clip import ClipRelevance
from vllm_script.relevance.lm_attention import FirstLayer, LmAttention
from vllm_script.relevance.windows import clip_windows

from ..scenes.answering import MAX_ANSWER, Answerer
from ..scenes.tiling import PATCHES, rows_of
from ..thinning.hook import Cut, thinned_after
from ..thinning.scores import Score


@dataclass(frozen=True)
class Encoded:
    """A picture and a question, encoded, before pruning."""

    before: torch.Tensor
    """[A, D] embeddings of the prompt before the picture."""
    after: torch.Tensor
    """[B, D] those after it."""
    rows: torch.Tensor
    """[N] patch of each visual token in reading order, -1 for a newline."""
    states: torch.Tensor
    """[tiles * patches, H] of the vision tower."""
    features: torch.Tensor
    """[tiles * patches + 1, D] projected; the newline at the end, where -1 finds it."""
    dropped: torch.Tensor
    """[tiles * patches] bool: what was dropped inside the tower, whose states are zeros."""

    @property
    def places(self) -> torch.Tensor:
        """[P] the visual tokens that are patches, but for the dropped ones."""
        return ((self.rows >= 0) & ~self.dropped[self.rows]).nonzero()[:, 0]

    @property
    def patches(self) -> torch.Tensor:
        """[P] their patches."""
        return self.rows[self.places]

    @property
    def tiles(self) -> torch.Tensor:
        """[P] their tiles."""
        return self.patches // PATCHES


class DemoModel:
    """A folder that train.py wrote, LLaVA and CLIP."""

    def __init__(self, folder: Path) -> None:
        self.clip_folder = str(folder / "clip")
        self.answerer = Answerer(folder)
        config, weights = (
            CLIPConfig.from_pretrained(self.clip_folder),
            read(self.clip_folder).weights,
        )
        self.clip = ClipRelevance(config, weights, torch.float32, "cpu")
        self.lm_attention = LmAttention(self._first_layer(), lambda scores: scores)

    def _first_layer(self) -> FirstLayer:
        language = self.answerer.model.model.language_model
        layer, config = language.layers[0], language.config
        attention = layer.self_attn

        def project(rows: torch.Tensor) -> torch.Tensor:
            return torch.cat([attention.q_proj(rows), attention.k_proj(rows)], dim=1)

        sizes = config.num_attention_heads, config.num_key_value_heads, attention.head_dim
        return FirstLayer(layer.input_layernorm, project, *sizes)

    @torch.no_grad()
    def encode(
        self, picture: np.ndarray, question: str, thinning: tuple[Score, Cut] | None = None
    ) -> Encoded:
        """Encode a [height, width, 3] uint8 picture and a question about it.

        Args:
            thinning: which patches of a tile stay where the tower drops the others; None: all do.
        """
        llava = self.answerer.model
        inputs = self.answerer.inputs(picture, question)
        states, dropped = self._states(inputs["pixel_values"][0], thinning)
        projected = llava.model.multi_modal_projector(states).flatten(0, 1)
        ids = inputs["input_ids"][0]
        image = (ids == llava.config.image_token_id).nonzero()[:, 0]
        embedded = llava.get_input_embeddings()(ids)
        return Encoded(
            before=embedded[: image[0]],
            after=embedded[image[-1] + 1 :],
            rows=torch.from_numpy(rows_of(*picture.shape[:2])),
            states=states.flatten(0, 1),
            features=torch.cat([projected, llava.model.image_newline[None]]),
            dropped=dropped.flatten(),
        )

    def _states(
        self, tiles: torch.Tensor, thinning: tuple[Score, Cut] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States [tiles, patches, H] of the vision tower, zeros for what it dropped, and a mask
        [tiles, patches] of that."""
        llava = self.answerer.model
        tower = partial(llava.model.vision_tower, tiles, output_hidden_states=True)
        read = llava.config.vision_feature_layer
        dropped = torch.zeros(len(tiles), PATCHES, dtype=torch.bool)
        if thinning is None:
            return tower().hidden_states[read][:, 1:], dropped
        score, cut = thinning
        blocks = llava.model.vision_tower.encoder.layers
        with thinned_after(
            blocks, cut.after, PATCHES, lambda states: [score(states, cut.count(PATCHES))]
        ) as chosen:
            left = tower().hidden_states[read][:, 1:]
        stays = torch.stack([kept for (kept,) in chosen])
        states = left.new_zeros(*dropped.shape, left.shape[2])
        states[torch.arange(len(tiles))[:, None], stays] = left
        return states, ~dropped.scatter(1, stays, True)

    @torch.no_grad()
    def relevance(self, encoded: Encoded, question: str, source: str) -> torch.Tensor | None:
        """Relevance [P] of the patches to the question, in [0, 1], high = keep."""
        if source == "none":
            return None
        if source == "clip":
            windows = clip_windows(self.clip_folder, question)
            scores: torch.Tensor = self.clip(encoded.states[encoded.patches], [windows])
            return scores
        ids = self.answerer.tokenizer.encode(question, add_special_tokens=False)
        words = self.answerer.model.get_input_embeddings()(torch.tensor(ids))
        tokens = encoded.features[encoded.patches]
        if source == "lm-attention":
            return self.lm_attention(tokens, [words])
        return query_relevance(tokens, words)

    @torch.no_grad()
    def answers(self, encoded: Encoded, selections: list[torch.Tensor]) -> list[str]:
        """Greedy answers for selections of visual tokens, all of one length."""
        prompts = [
            torch.cat([encoded.before, encoded.features[encoded.rows[kept]], encoded.after])
            for kept in selections
        ]
        ids = self.answerer.model.generate(
            inputs_embeds=torch.stack(prompts),
            attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.long),
            max_new_tokens=MAX_ANSWER,
            do_sample=False,
        )
        return [text.strip() for text in self.answerer.tokenizer.batch_decode(ids, True)]
