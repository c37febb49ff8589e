"""Private ways of vLLM's models that layouts and relevance follow: called, not changed.

Why: which patch a row of an anyres image comes from must follow vLLM's own merging and unpadding,
so `_merge_image_patch_embeddings` is called on the numbers of the patches.

Upstream: nothing is known that would say it. The methods:
https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/model_executor/models/llava_next.py#L365
https://github.com/vllm-project/vllm/blob/v0.32.0/vllm/model_executor/models/llava_onevision.py#L611

Remove when: vLLM exposes that map.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch


def merge_llava_next_tiles(
    tile_size: int, patch_size: int, pinpoints: tuple[tuple[int, ...], ...], height: int, width: int
) -> torch.Tensor:
    """Rows of a LLaVA-NeXT image as vLLM merges them.

    Args:
        tile_size, patch_size: encoder input and patch, in pixels.
        pinpoints: the anyres resolutions, (height, width) in pixels.
        height, width: of the image, in pixels.

    Returns:
        [N] int64: index of the row's patch in tiles x patches (base tile first), -1 for a newline.
    """
    from vllm.model_executor.models import llava_next

    merge = llava_next.LlavaNextForConditionalGeneration._merge_image_patch_embeddings
    return _merged_numbers(merge, {}, tile_size, patch_size, pinpoints, height, width).long()


def merge_llava_onevision_tiles(
    tile_size: int, patch_size: int, pinpoints: tuple[tuple[int, ...], ...], height: int, width: int
) -> torch.Tensor:
    """Rows of a LLaVA-OneVision image, which may be mixtures of patches: [N], -1 for a newline."""
    from vllm.model_executor.models import llava_onevision

    merge = llava_onevision.LlavaOnevisionForConditionalGeneration._merge_image_patch_embeddings
    newline = {"image_newline": _NEWLINE}
    return _merged_numbers(merge, newline, tile_size, patch_size, pinpoints, height, width)


_NEWLINE = torch.tensor([-1.0], dtype=torch.float64)


def _merged_numbers(
    merge: Callable[..., torch.Tensor],
    arguments: dict[str, Any],
    tile_size: int,
    patch_size: int,
    pinpoints: tuple[tuple[int, ...], ...],
    height: int,
    width: int,
) -> torch.Tensor:
    """What `merge` makes of patch numbers, [N] float64."""
    from vllm.model_executor.models.llava_next import get_anyres_image_grid_shape

    grid = get_anyres_image_grid_shape((height, width), list(map(list, pinpoints)), tile_size)
    num_tiles, num_patches = 1 + grid[0] * grid[1], (tile_size // patch_size) ** 2
    numbers = torch.arange(num_tiles * num_patches, dtype=torch.float64)
    model = SimpleNamespace(
        config=SimpleNamespace(
            vision_config=SimpleNamespace(image_size=tile_size, patch_size=patch_size),
            image_grid_pinpoints=list(map(list, pinpoints)),
        ),
        image_newline=_NEWLINE,
    )
    merged = merge(
        model,
        torch.tensor([height, width]),
        numbers.view(num_tiles, num_patches, 1),
        strategy="spatial_unpad",
        **arguments,
    )
    return merged.flatten()


def input_embeddings(model: Any, token_ids: torch.Tensor) -> torch.Tensor:
    """Rows [L, D] of the language model's input embedding for token_ids [L].

    Reads below a LoRA wrapper: relevance belongs to the base model, and the wrapper's batch
    mapping does not describe these tokens.
    """
    language_model = model.get_language_model()
    embedding = getattr(getattr(language_model, "model", None), "embed_tokens", None)
    if embedding is None:
        return language_model.embed_input_ids(token_ids)
    return getattr(embedding, "base_layer", embedding)(token_ids)


def clip_weights(clip_model: str, prefix: str) -> Any:
    """A source of further weights for vLLM's loader, their names to be prefixed."""
    from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

    return DefaultModelLoader.Source(model_or_path=clip_model, revision=None, prefix=prefix)
