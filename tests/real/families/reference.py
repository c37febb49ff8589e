"""What transformers answers to a pruned prompt, for each family's small checkpoint.

It runs on the whole prompt, and the tokens that the engine dropped are taken out before the
language model.
"""

from collections import defaultdict

import torch

from .kimi import kimi_k25

SAME_WEIGHTS = {
    "internvl-chat": "internvl",
    "internvl3.5-chat": "internvl3.5",
    "interns1": "internvl3.5",
    "pixtral": "ministral3",
}
"""Families without code in transformers, and the one there with the same weights and tokens."""
TILES_ARE_IMAGES = ("intern", "glm", "gemma", "llama4", "kimi")
"""How the names of families begin to which transformers gives tiles or patches of all items in one
tensor, or frames of videos as images."""
ROW_BREAKS = ("mistral3", "ministral3", "pixtral")
"""Families whose images have breaks between their rows, and any size."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours, in those of benchmarks/checkpoints that leave normalising to the model."""


def reference_of(family, family_checkpoint, masks=None):
    """What the fixture `reference` gives.

    Args:
        masks: from the language model's configuration, embeddings, and which tokens are visual, of
            what stays, to the attention masks of its layers; None: causal ones.
    """
    from transformers import AutoModelForImageTextToText

    folder = family_checkpoint(SAME_WEIGHTS.get(family, family))
    read = kimi_k25 if family == "kimi-vl" else AutoModelForImageTextToText.from_pretrained
    model = read(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def logprobs(prompt, answer, kept):
        inputs, stays = _inputs(family, prompt, list(answer), kept)
        if family.startswith(TILES_ARE_IMAGES):
            inputs |= _as_images(inputs, prompt, model.config.image_token_id)

        def prune(language_model, args, kwargs):
            kwargs = _without(kwargs, stays)
            if masks is not None:
                is_visual = inputs["input_ids"][:, stays] == model.config.image_token_id
                config, embeds = language_model.config, kwargs["inputs_embeds"]
                kwargs["attention_mask"] = masks(config, embeds, is_visual)
            return args, kwargs

        language_model = getattr(model, "model", model).language_model
        handle = language_model.register_forward_pre_hook(prune, with_kwargs=True)
        logits = model(**inputs).logits[0, -len(answer) - 1 : -1]
        handle.remove()
        return logits.log_softmax(-1)[range(len(answer)), answer].tolist()

    return logprobs


def _inputs(family, prompt, answer, kept):
    """Arguments of transformers' model for a prompt that is whole, and which tokens are to stay."""
    token_ids = torch.tensor([prompt["prompt_token_ids"] + answer])
    types, stays = torch.zeros_like(token_ids), torch.ones(token_ids.shape[1], dtype=torch.bool)
    inputs = {"input_ids": token_ids}
    names = [name for items in prompt["mm_kwargs"].values() for name in items[0]]
    if any(name.endswith(("_grid_thw", "_grid_hws")) for name in names):
        inputs["mm_token_type_ids"] = types
    kept = iter(kept)
    spans = [
        (span, modality) for modality, spans in prompt["mm_placeholders"].items() for span in spans
    ]
    for span, modality in sorted(spans, key=lambda item: item[0].offset):
        runs = span.extract_embeds_range()
        rows = torch.cat([torch.arange(first, last + 1) for first, last in runs])
        types[0, rows] = 1 if modality == "image" else 2
        own = next(kept, torch.arange(len(rows)))
        if family in ROW_BREAKS and len(own) < len(rows):
            stays[rows[0] : rows[-1]] = False  # with what stands between the rows of patches
        stays[rows] = False
        stays[rows[own]] = True
    for items in prompt["mm_kwargs"].values():
        for name in items[0]:
            values = [item[name].data for item in items]
            if isinstance(values[0], torch.Tensor) and not name.startswith("script"):
                any_size = family in ROW_BREAKS and name in ("pixel_values", "images")
                inputs |= _padded(values) if any_size else {name: _batched(values)}
    return inputs, stays


def _padded(images):
    """Images of a tower that takes any size, [3, height, width] each, as transformers has them."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = sizes.amax(0).tolist()
    padded = torch.zeros(len(images), 3, height, width)
    for image, into in zip(images, padded, strict=True):
        pixels = _normalised(image.reshape(1, -1)).view(image.shape)
        into[:, : image.shape[1], : image.shape[2]] = pixels
    return {"pixel_values": padded, "image_sizes": sizes}


def _as_images(inputs, prompt, image_token_id):
    """What is different where tiles are one tensor with all others, and frames images."""
    items = [
        (span, {name: element.data for name, element in item.items()})
        for modality, spans in prompt["mm_placeholders"].items()
        for span, item in zip(spans, prompt["mm_kwargs"][modality], strict=True)
    ]
    token_ids, types, grids = inputs["input_ids"], inputs.get("mm_token_type_ids"), []
    tiles = defaultdict(list)
    for span, item in sorted(items, key=lambda pair: pair[0].offset):
        for first, last in span.extract_embeds_range():
            token_ids[0, first : last + 1] = image_token_id
        placed = any("position" in name for name in item)  # Gemma 4's patches are, tile by tile
        for name, value in item.items():
            if name.startswith("pixel"):
                value = value[None] if placed and value.dim() == 2 else value
                tiles["image_position_ids" if "position" in name else "pixel_values"].append(value)
            elif name.endswith("_grid_thw"):
                frames, *size = value.tolist()
                grids += [[1, *size]] * frames
            elif name.endswith("_grid_hws"):
                grids.append([1, *value.tolist()])
    others = [name for name in inputs if name.startswith(("pixel_", "video"))]
    whole = dict.fromkeys(others) | {name: torch.cat(values) for name, values in tiles.items()}
    whole["pixel_values"] = _normalised(whole["pixel_values"])
    if grids:
        whole |= {"image_grid_thw": torch.tensor(grids), "mm_token_type_ids": types.clamp(max=1)}
    return whole


def _batched(values):
    """One tensor: of patches of all items, of tiles with empty ones behind, or of single values."""
    if values[0].dim() == 2:
        return _normalised(torch.cat(values))
    if values[0].dim() < 2:
        return torch.stack(values)
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True)


def _normalised(patches):
    """Patches [patches, 3 * pixels] as transformers has them; vLLM's model normalises bytes."""
    if patches.dtype != torch.uint8:
        return patches
    colours = patches.view(len(patches), 3, -1) / 255
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in (MEAN, STD))
    return ((colours - mean) / std).flatten(1)


def _without(kwargs, stays):
    """Arguments of the language model without the tokens that do not stay."""
    kwargs = dict(kwargs)
    masks = kwargs.get("visual_pos_masks")
    if isinstance(kwargs.get("attention_mask"), dict):
        kwargs["attention_mask"] = None  # made anew of what stays: causal, as vLLM's on a CPU
    for name in ("inputs_embeds", "attention_mask", "per_layer_inputs"):
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name][:, stays]
    if kwargs.get("position_ids") is not None:
        one_dimensional = kwargs["position_ids"].dim() == 2  # and counted anew of what stays
        kwargs["position_ids"] = None if one_dimensional else kwargs["position_ids"][..., stays]
    if masks is not None:
        rows = stays[masks[0]]
        kwargs["visual_pos_masks"] = masks[:, stays]
        kwargs["deepstack_visual_embeds"] = [x[rows] for x in kwargs["deepstack_visual_embeds"]]
    return kwargs
