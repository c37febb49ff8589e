"""Processor of a Kimi-VL, as a file of the checkpoint: what vLLM and transformers ask of one."""

import math

import torch
from torchvision.transforms.functional import normalize, pad, to_tensor
from transformers import BatchFeature, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor


class KimiVLImageProcessor(BaseImageProcessor):
    model_input_names = ["pixel_values", "image_grid_hws"]

    def __init__(
        self,
        patch_size=14,
        merge_kernel_size=(2, 2),
        in_token_limit=4096,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.merge_kernel_size = list(merge_kernel_size)
        self.in_token_limit = in_token_limit
        self.image_mean, self.image_std = list(image_mean), list(image_std)

    def preprocess(self, images, return_tensors=None, **kwargs):
        """Patches [patches, 3, side, side] of all images, and the grid of each."""
        images = images if isinstance(images, list) else [images]
        patches, grids = zip(*map(self._patches, images), strict=True)
        data = {"pixel_values": torch.cat(patches), "image_grid_hws": torch.tensor(grids)}
        return BatchFeature(data, tensor_type=return_tensors)

    def _patches(self, image):
        """An image that is scaled down to the limit, and filled up below and to the right."""
        side, (width, height) = self.patch_size, image.size
        patches = (width // side) * (height // side)
        if patches > self.in_token_limit:
            scale = math.sqrt(self.in_token_limit / patches)
            width, height = int(width * scale), int(height * scale)
            image = image.resize((width, height), resample=3)
        down, across = (side * number for number in self.merge_kernel_size)
        pixels = pad(to_tensor(image.convert("RGB")), [0, 0, -width % across, -height % down])
        pixels = normalize(pixels, self.image_mean, self.image_std)
        rows, columns = (length // side for length in pixels.shape[1:])
        cut = pixels.view(3, rows, side, columns, side).permute(1, 3, 0, 2, 4)
        return cut.flatten(0, 1), (rows, columns)


class KimiVLProcessor(ProcessorMixin):
    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        self.image_token = "<|media_pad|>"
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def __call__(self, images=None, text=None, return_tensors=None, **kwargs):
        """Pixels and grids of the images, and the text with a token for each visual token."""
        data = {}
        if images is not None:
            data |= self.image_processor(images, return_tensors=return_tensors)
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            tokens = iter((data["image_grid_hws"].prod(-1) // 4).tolist() if data else ())
            parts = [each.split(self.image_token) for each in texts]
            texts = [
                first + "".join(self.image_token * next(tokens) + part for part in others)
                for first, *others in parts
            ]
            data |= self.tokenizer(texts, return_tensors=return_tensors)
        return BatchFeature(data)
