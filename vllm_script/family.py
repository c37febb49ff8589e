"""What the plugin must know of a model family: how vLLM lays out an item, and where it may not run.

The processor (API process) and the model (engine process) ask the same object, so that they agree
on every row. families/ has one for each family.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from .layout import Layout, Tiles
from .plan import Plan
from .pruning.thinning import Quota
from .vllm_types import EngineArgs, ProcessingInfo

Views = Mapping[str, torch.Tensor]
"""Boxes [patches, 4] in pixels (left, top, right, bottom) of each view that the encoder has of an
image, by a name for people. Patches are numbered through all views, as in `Layout.rows`."""


class Family(Protocol):
    """One model family. `hf_config` is always the Hugging Face configuration of the model."""

    modalities: tuple[str, ...] = ("image",)
    """What is pruned of `image` and `video`; vLLM handles the rest as ever."""

    tokenizer_mode: str = "hf"
    """vLLM's `--tokenizer-mode` for the model: who lays out prompts, and so which renderer."""

    tower_layer: float | None = None
    """Share of the vision tower's blocks after which patches are dropped where the operator says no
    other; None where the tower cannot be thinned."""

    def check(self, engine_args: EngineArgs, hf_config: Any) -> None:
        """Raise ValueError, before weights load, for what pruning would get wrong.

        Args:
            engine_args: what the operator gave.
        """
        return None

    def tower_depth(self, hf_config: Any) -> int:
        """Return how many blocks of the vision tower run, where it can be thinned.

        Raises:
            ValueError: this model's tower cannot be, one line that says why.
        """
        raise AssertionError("asked of towers that can be thinned")

    def tower_width(self, hf_config: Any) -> int:
        """Return how many values a state in the vision tower has, where it can be thinned."""
        return int(hf_config.vision_config.hidden_size)

    def tiles(self, hf_config: Any, layout: Layout) -> Tiles:
        """Return the tiles or frames of an item, where the vision tower can be thinned."""
        raise AssertionError("asked of towers that can be thinned")

    def quota(self, hf_config: Any, layout: Layout, plan: Plan) -> Quota | None:
        """Return what a thinned vision tower leaves of an item.

        None where the item has the whole tower: by its plan, or since more is kept of it.
        """
        if plan.tower is None:
            return None
        quota = layout.quota(self.tiles(hf_config, layout), plan.tower.keep)
        kept = plan.num_kept(*layout.counts)
        return quota if kept is not None and kept <= quota.num_left else None

    @abstractmethod
    def example(self, hf_config: Any) -> tuple[str, Layout]:
        """Return an image or video for the start-up line: its size in words, and its layout."""

    @abstractmethod
    def image_layout(
        self, info: ProcessingInfo, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        """Return the layout of an image before it is processed; its identifier depends on it.

        Args:
            info: vLLM's processing info of the model.
            height, width: of the image, in pixels.
            kwargs: the request's `mm_processor_kwargs`.
        """

    @abstractmethod
    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        """Return the layout of an image or video that has been processed.

        Args:
            fields: what the Hugging Face processor made of the item, by name: as vLLM stores one
                item, or as it batches a single one.
        """

    def video_layout(self, hf_config: Any, num_frames: int) -> Layout | None:
        """Return the layout of a video of so many frames; None where it depends on more."""
        return None

    def video_tokens(
        self,
        info: ProcessingInfo,
        num_frames: int,
        height: int,
        width: int,
        kwargs: Mapping[str, object],
    ) -> int | None:
        """Return how many visual tokens a video has before pruning, before it is processed.

        Args:
            info: vLLM's processing info of the model.
            num_frames, height, width: of the decoded video, in frames and pixels.
            kwargs: the request's `mm_processor_kwargs`.

        Returns:
            placeholders that stock vLLM would give it where all these frames are taken; None where
            that is known only once the Hugging Face processor has chosen among them.
        """
        layout = self.video_layout(info.get_hf_config(), num_frames)
        return None if layout is None else layout.num_placeholders

    def largest_item(self, info: ProcessingInfo, modality: str, max_model_len: int) -> int:
        """Return how many visual tokens the largest item has that stock vLLM profiles.

        Args:
            info: vLLM's processing info of the model.
            max_model_len: context of the model, which bounds the frames of a video.
        """
        if modality == "image":
            return int(info.get_max_image_tokens())
        frames = info.get_num_frames_with_most_features(max_model_len, {"video": 1})
        tokens = self.video_tokens(info, frames, 1, 1, {})
        assert tokens is not None, "frames of any size have equally many tokens"
        return tokens

    def views(self, hf_config: Any, layout: Layout, height: int, width: int) -> Views | None:
        """Return where the patches of an image lie on it, for explain; None where it takes none.

        Args:
            height, width: of the image, in pixels.
        """
        return None

    def frame_boxes(
        self, hf_config: Any, layout: Layout, height: int, width: int
    ) -> torch.Tensor | None:
        """Return where the patches of each frame of a video lie on it, for explain.

        Args:
            height, width: of a frame, in pixels.

        Returns:
            boxes [patches of a frame, 4] as in `Views`; None where the model takes no videos.
        """
        return None

    def token(self, info: ProcessingInfo, modality: str) -> str:
        """Return the text that stands for an item in a prompt."""
        return str(getattr(info.get_hf_processor(), f"{modality}_token"))

    def placeholder(self, info: ProcessingInfo, modality: str) -> str:
        """Return the text that stands for an item, with what the chat template writes around it."""
        return self.token(info, modality)

    def state_width(self, hf_config: Any) -> int:
        """Return how many values a patch's state in the vision tower has, for CLIP relevance.

        0 where the tower is not CLIP's.
        """
        return 0

    def feature_width(self, hf_config: Any) -> int:
        """Return how many values a visual token has as the model's projector returns it."""
        return int(hf_config.get_text_config().hidden_size)
