"""Pixtral, Mistral Small 3 and Ministral 3 in Mistral's own format: rows of patches with breaks.

An image has the same tokens in a prompt as in transformers' format (mistral3.py), and a pruned one
the same run. But Mistral's tokenizer has put the rows into the prompt before the processor sees it.
Ours puts the image's token alone in their place, as in prompts of all other models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from mistral_common.tokens.tokenizers.image import ImageConfig, ImageEncoder, SpecialImageIDs
from vllm.exceptions import VLLMValidationError
from vllm.model_executor.models.pixtral import (
    PixtralDummyInputsBuilder,
    PixtralForConditionalGeneration,
    PixtralMultiModalProcessor,
    PixtralProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import BaseMultiModalProcessor, ProcessorInputs
from vllm.transformers_utils.processors.pixtral import MistralCommonImageProcessor

from ..layout import Layout
from ..patches.probing import EXISTS, Probes
from ..vllm_types import EngineArgs, ProcessingInfo
from ..worker.model import PrunedModel
from .drafting import BY_NAME, check_drafts_from_text
from .mistral3 import Mistral3Family, RowsProcessor, grid_layout


class PixtralFamily(Mistral3Family):
    tokenizer_mode = "mistral"

    def check(self, engine_args: EngineArgs, hf_config: Any) -> None:
        """Raise ValueError for models that draft: vLLM knows those of Pixtral's own class alone."""
        check_drafts_from_text(engine_args, BY_NAME)

    def example(self, hf_config: Any) -> tuple[str, Layout]:
        """Return an image that is scaled down to what the tokenizer takes at most."""
        vision = hf_config.vision_config
        longest = getattr(vision, "max_image_size", None) or vision.image_size
        images = ImageConfig(vision.patch_size, longest, _merge(vision))
        encoder = ImageEncoder(images, SpecialImageIDs(0, 1, 2))
        return "1280x720", _image_layout(MistralCommonImageProcessor(encoder), 720, 1280)

    def image_layout(
        self, info: Any, height: int, width: int, kwargs: Mapping[str, object]
    ) -> Layout:
        return _image_layout(info.get_image_processor(), height, width)

    def item_layout(self, hf_config: Any, modality: str, fields: Mapping[str, Any]) -> Layout:
        """Return the layout by the pixels of the item, [3, height, width] or a batch of that."""
        side = hf_config.vision_config.patch_size * _merge(hf_config.vision_config)
        pixels = fields["images"]
        height, width = (pixels[0] if isinstance(pixels, list) else pixels).shape[-2:]
        return grid_layout(height // side, width // side)

    def largest_item(self, info: Any, modality: str, max_model_len: int) -> int:
        size = info.get_image_size_with_most_features()
        return self.image_layout(info, size.height, size.width, {}).num_placeholders

    def token(self, info: ProcessingInfo, modality: str) -> str:
        return "[IMG]"


def _merge(vision_config: Any) -> int:
    """How many patches on each side make one visual token; 1 in the first Pixtral."""
    return int(getattr(vision_config, "spatial_merge_size", 1))


def _image_layout(processor: MistralCommonImageProcessor, height: int, width: int) -> Layout:
    _, rows, columns = processor.get_number_of_image_patches(height, width)
    return grid_layout(rows, columns)


class ScriptPixtralInfo(PixtralProcessingInfo):
    probes: ClassVar[Probes] = {
        "get_image_processor": (),
        "get_image_size_with_most_features": (),
        "vllm.transformers_utils.processors.pixtral:"
        "MistralCommonImageProcessor.get_number_of_image_patches": ("height", "width"),
    }


class ScriptPixtralProcessor(RowsProcessor, PixtralMultiModalProcessor):
    family = PixtralFamily()
    probes: ClassVar[Probes] = {
        "_maybe_apply_prompt_updates": ("mm_items", "mm_res"),
        "vllm.multimodal.processing:BaseMultiModalProcessor._maybe_apply_prompt_updates": (
            *("mm_items", "mm_res"),
        ),
        "vllm.multimodal.processing:PromptReplacement.target": EXISTS,
    }

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        prompt = self._one_token_an_image(inputs)
        return super().apply(replace(inputs, prompt=prompt), timing_ctx)

    def _get_prompt_updates(self, *args: Any, **kwargs: Any) -> Sequence[Any]:
        """Return stock's replacements, to be put in place of the image's token."""
        updates = super()._get_prompt_updates(*args, **kwargs)
        return [replace(update, target=[self._tokens().img]) for update in updates]

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        """Put the replacements in, as for other models: stock only looks where the rows are."""
        return BaseMultiModalProcessor._maybe_apply_prompt_updates(self, mm_items, mm_res)

    def _tokens(self) -> SpecialImageIDs:
        """Return the ids of the image's token, of the break behind a row, and of the end."""
        ids: SpecialImageIDs = self.info.get_image_processor().mm_encoder.special_ids
        return ids

    def _one_token_an_image(self, inputs: ProcessorInputs) -> list[int]:
        """Return the prompt with the image's token alone in place of the rows of every image.

        Raises:
            VLLMValidationError: an image has other rows than Mistral's tokenizer gives it.
        """
        tokens, prompt, short, end = self._tokens(), list(inputs.prompt), [], 0
        images = inputs.mm_data_items.get("image", ())
        for index in range(len(images)):
            start = _place(tokens.img, prompt, end)
            short += [*prompt[end:start], tokens.img]
            end = _place(tokens.img_end, prompt, start) + 1
            found = prompt[start:end]
            layout = self._image_layout(images, index, inputs.hf_processor_mm_kwargs)
            # An image that came as its uuid alone has a size that vLLM's cache knows.
            expected = found if layout is None else _rows(layout, tokens)
            if not found or found != expected:
                raise VLLMValidationError(
                    f"image {index} has no place in the prompt, or not the rows that Mistral's "
                    "tokenizer gives an image of its size; send messages, or token ids of such a "
                    "prompt",
                    parameter="prompt",
                )
        return short + prompt[end:]


def _place(token: int, prompt: list[int], start: int) -> int:
    """Where a token is first, from a place on; the length of the prompt where it is not."""
    return next((i for i in range(start, len(prompt)) if prompt[i] == token), len(prompt))


def _rows(layout: Layout, tokens: SpecialImageIDs) -> list[int]:
    """What an image has in a prompt: rows with breaks between them, and the end."""
    row = [*[tokens.img] * layout.columns, tokens.img_break]
    return [*(row * (layout.num_patches // layout.columns))[:-1], tokens.img_end]


@MULTIMODAL_REGISTRY.register_processor(
    ScriptPixtralProcessor,
    info=ScriptPixtralInfo,
    dummy_inputs=PixtralDummyInputsBuilder,
)
class ScriptPixtralForConditionalGeneration(PrunedModel, PixtralForConditionalGeneration):
    family = ScriptPixtralProcessor.family
