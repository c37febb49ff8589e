"""What families have in common whose tokens have positions in three dimensions: see positions.py.

Their items are grids of visual tokens, whose size the Hugging Face processor writes beside the
pixels. A family says how the prompt cuts a grid into runs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from vllm.exceptions import VLLMValidationError
from vllm.sequence import IntermediateTensors
from vllm.utils.gpu_sync_debug import gpu_sync_allowed

from ..family import Family
from ..frontend.processor import PruningProcessor
from ..kernels import to_device
from ..layout import Layout
from ..patches.position_channels import ask_for_position_channels, expect_position_channels
from ..patches.probing import EXISTS, Probes, members
from ..plan import Plan
from ..positions import (
    IN_PLACE,
    NUM_CHANNELS,
    Run,
    coordinate_channels,
    fewest_rows,
    place_channels,
    place_rows,
    prompt_positions,
)
from ..vllm_types import EngineArgs, ProcessingInfo
from ..worker.batch import split_flat
from ..worker.encoded_image import EncodedImage
from ..worker.model import PrunedModel
from .boxes import whole_boxes
from .drafting import check_drafts_from_text


def layout_of_runs(runs: Sequence[np.ndarray], num_frames: int) -> Layout:
    """Layout of an item with these coordinates, [3, rows] of each run."""
    fewest = len(runs) * max(map(fewest_rows, runs))
    num_rows = sum(run.shape[1] for run in runs)
    return Layout(torch.arange(num_rows), num_frames, len(runs) > 1, max(num_frames, fewest))


STOCK_PRUNING: Probes = {
    "supports_multimodal_pruning": EXISTS,
    "recompute_mrope_positions": (
        *("input_ids", "multimodal_embeddings", "mrope_positions", "num_computed_tokens"),
    ),
}
"""vLLM's protocol of pruning, for the probes of stock models that follow it on their own."""


class MRopeFamily(Family):
    """A family whose items are grids of visual tokens with coordinates in time, height, width."""

    modalities = ("image", "video")

    def check(self, engine_args: EngineArgs, hf_config: Any) -> None:
        """Raise ValueError for ways of running that would lose the rows' positions."""
        check_drafts_from_text(engine_args, "which may read rows and positions on its own")

    @abstractmethod
    def runs(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> list[np.ndarray]:
        """Return the coordinates, [3, rows] of each run, of an item that was processed."""

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        num_frames = int(fields[f"{modality}_grid_thw"].flatten()[0])
        runs = self.runs(hf_config, modality, fields)
        columns = int(np.ptp(runs[0][2])) + 1
        return replace(layout_of_runs(runs, num_frames), columns=columns)

    def frame_boxes(self, hf_config: Any, layout: Layout, height: int, width: int) -> torch.Tensor:
        rows = layout.num_patches // layout.num_frames // layout.columns
        return whole_boxes(rows, layout.columns, height, width)

    def marks(self, modality: str) -> tuple[str, str]:
        """Return the texts that a chat template writes before and behind an item."""
        return "<|vision_start|>", "<|vision_end|>"

    def placeholder(self, info: ProcessingInfo, modality: str) -> str:
        return self.token(info, modality).join(self.marks(modality))


class MRopeProcessor(PruningProcessor):
    """The processor of families whose tokens have three-dimensional positions."""

    family: MRopeFamily

    def _check_prompt(self, processed: Any, plans: Mapping[str, Sequence[Plan | None]]) -> None:
        """Refuse a pruned item without text around it: its positions are counted from that text."""
        config = self.info.get_hf_config()
        around = [None, config.image_token_id, config.video_token_id]
        tokens = [None, *processed["prompt_token_ids"], None]
        for modality in plans:
            spans = processed["mm_placeholders"][modality]
            before, behind = self.family.marks(modality)
            for index, (plan, span) in enumerate(zip(plans[modality], spans, strict=True)):
                runs = span.extract_embeds_range()
                start, end = runs[0][0], runs[-1][1] + 2
                if plan is not None and (tokens[start] in around or tokens[end] in around):
                    raise VLLMValidationError(
                        f"{modality} {index} must stand between {before} and {behind}, as the "
                        "chat template writes it, to be pruned",
                        parameter="prompt",
                    )


POSITIONS = "script_positions"
"""Name of the positions, [tokens, 3], among what a pipeline's stages send each other."""


MakeEmpty = Callable[[int, torch.dtype, torch.device], IntermediateTensors]


def _with_positions(
    make_empty: MakeEmpty,
    batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> IntermediateTensors:
    """What a later stage has room for: that of `make_empty`, and positions."""
    tensors = make_empty(batch_size, dtype, device)
    tensors.tensors[POSITIONS] = torch.zeros(batch_size, 3, dtype=torch.int64, device=device)
    return tensors


class MRopePrunedModel(PrunedModel):
    """A pruned model whose rows carry their coordinates to where the prompt's positions are."""

    probes = {
        "get_mrope_input_positions": ("input_tokens", "mm_features"),
        "forward": ("input_ids", "positions", "intermediate_tensors", "inputs_embeds", "kwargs"),
        **members("vllm.model_executor.models.interfaces:SupportsMultiModalPruning", STOCK_PRUNING),
        "vllm.utils.gpu_sync_debug:gpu_sync_allowed": EXISTS,
    }
    supports_multimodal_pruning = True
    family: MRopeFamily
    config: Any
    make_empty_intermediate_tensors: MakeEmpty

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        expect_position_channels(vllm_config.model_config.multimodal_config)
        ask_for_position_channels(vllm_config)
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            make_empty = self.make_empty_intermediate_tensors
            self.make_empty_intermediate_tensors = partial(_with_positions, make_empty)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | IntermediateTensors:
        """Run the stage of a pipeline, or the whole model, that this process has.

        The first stage alone is given the rows, and so their positions; it sends these along.

        Args:
            positions: [3, tokens] int64, the runner's own, which CUDA graphs go on reading; on a
                later stage it has filled in those of the whole prompt.
        """
        if intermediate_tensors is not None:
            positions.copy_(intermediate_tensors[POSITIONS].T)
        states: torch.Tensor | IntermediateTensors = super().forward(  # type: ignore[misc]
            input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs
        )
        if isinstance(states, IntermediateTensors):
            states.tensors[POSITIONS] = positions.T.contiguous()
        return states

    def split(self, fields: dict[str, Any], num_items: int) -> Iterator[dict[str, Any]]:
        (grids,) = (value for name, value in fields.items() if name.endswith("_grid_thw"))
        return split_flat(fields, grids.prod(-1))

    def embed_whole(self, modality: str, fields: dict[str, Any]) -> Sequence[torch.Tensor]:
        return [
            torch.cat([rows, rows.new_full((len(rows), NUM_CHANNELS), IN_PLACE)], dim=1)
            for rows in super().embed_whole(modality, fields)
        ]

    def embed_kept(
        self, modality: str, fields: dict[str, Any], image: EncodedImage, kept: torch.Tensor
    ) -> torch.Tensor:
        rows = super().embed_kept(modality, fields, image, kept)
        runs = self.family.runs(self.config, modality, fields)
        where = to_device(coordinate_channels(runs), kept.device).index_select(0, kept)
        place = to_device(place_channels(len(runs), len(kept)), kept.device)
        return torch.cat([rows, where.to(rows.dtype), place.to(rows.dtype)], dim=1)

    def get_mrope_input_positions(
        self, input_tokens: Sequence[int], mm_features: Sequence[Any]
    ) -> tuple[torch.Tensor, int]:
        runs = []
        for feature in sorted(mm_features, key=lambda feature: feature.mm_position.offset):
            fields = {name: element.data for name, element in feature.data.items()}
            places = feature.mm_position.extract_embeds_range()
            coordinates = self.family.runs(self.config, feature.modality, fields)
            for (first, last), run in zip(places, coordinates, strict=True):
                runs.append(Run(first, last + 1 - first, run))
        return prompt_positions(len(input_tokens), runs)

    def recompute_mrope_positions(
        self,
        input_ids: Sequence[int] | torch.Tensor,
        multimodal_embeddings: Sequence[torch.Tensor],
        mrope_positions: torch.Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[torch.Tensor], torch.Tensor, int | None]:
        """Take the channels off the rows of one step and fill in positions from them.

        Embeddings that a client sent as a part of a prompt are text: they have no channels, and
        nothing for the deeper layers that rows of an image with deepstack go to.

        Returns:
            the rows, the positions, and what to add to the place of a token generated later: None
            where positions are on the GPU, which means that it stays as it is.
        """
        width = self.family.feature_width(self.config)
        channels_of = [rows[:, width:] for rows in multimodal_embeddings if rows.shape[1] > width]
        rows = [
            rows[:, :width] if rows.shape[1] > width else pad(rows, (0, width - rows.shape[1]))
            for rows in multimodal_embeddings
        ]
        device = mrope_positions.device
        if channels_of:
            channels = torch.cat(channels_of)
            with gpu_sync_allowed():  # model runner V1 has positions on the CPU
                channels = channels.to(device)
            token_ids = torch.as_tensor(input_ids, device=device)
            is_image = token_ids == self.config.image_token_id
            is_placeholder = is_image | (token_ids == self.config.video_token_id)
            mrope_positions = place_rows(
                mrope_positions, is_placeholder, channels, num_computed_tokens
            )
        if device.type != "cpu":
            return rows, mrope_positions, None
        # The last token is text or of a whole item: what is pruned has text behind it.
        delta = int(mrope_positions[:, -1].max()) + 1 - mrope_positions.shape[1]
        return rows, mrope_positions, delta
