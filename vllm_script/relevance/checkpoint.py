"""A CLIP checkpoint: the weights that relevance reads of it, and a name made of its content.

Read here, and not by vLLM's model loader: some loaders read the served model's files alone, and one
reads none. The name is the same wherever the checkpoint is installed and whatever the format of its
files, so that engines on several machines share what they cache. It is a digest of the weights in
full and of the configuration. The tokenizer has no part in it: a plan holds token ids.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

READ = ("text_model.", "text_projection.", "vision_model.post_layernorm.", "visual_projection.")
"""Prefixes of what is read. The rest is the vision tower, which the served model has, too."""

_FILES = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Names of the file with the weights or with the list of such files; the first there is counts."""


@dataclass(frozen=True)
class ClipCheckpoint:
    """What is read of a CLIP checkpoint."""

    digest: str
    """64 hexadecimal digits over configuration and weights."""
    weights: dict[str, torch.Tensor]
    """On the CPU, by their published names; mapped from the files, which must stay as they are."""


def read(clip_model: str) -> ClipCheckpoint:
    """Read a CLIP checkpoint, from Hugging Face's cache or the hub where it is no folder.

    Raises:
        ValueError: it has no weights in a format that is known.
    """
    weights = {
        name: weight
        for path in _weight_files(clip_model)
        for name, weight in _tensors(path)
        if name.startswith(READ) and not name.endswith("position_ids")  # older ones store these
    }
    digest = hashlib.blake2b(digest_size=32)
    config = find(clip_model, "config.json")
    digest.update(config.read_bytes() if config is not None else b"")
    for name, weight in sorted(weights.items()):
        digest.update(f"\n{name} {weight.dtype} {list(weight.shape)}\n".encode())
        digest.update(weight.contiguous().view(-1).view(torch.uint8).numpy().data)
    return ClipCheckpoint(digest.hexdigest(), weights)


@lru_cache(maxsize=4)
def clip_digest(clip_model: str) -> str:
    """Return the digest of a CLIP checkpoint; under a second for a CLIP-L, then remembered."""
    return read(clip_model).digest


def _weight_files(clip_model: str) -> list[Path]:
    """The files with the weights."""
    for name in _FILES:
        path = find(clip_model, name)
        if path is None:
            continue
        if path.suffix != ".json":
            return [path]
        listed = sorted(set(json.loads(path.read_text())["weight_map"].values()))
        files = {each: find(clip_model, each) for each in listed}
        if missing := [each for each, file in files.items() if file is None]:
            raise ValueError(
                f"the weights of the CLIP checkpoint {clip_model} cannot be read: {name} lists "
                f"{missing[0]}, which is not there; fetch the whole checkpoint"
            )
        return [file for file in files.values() if file is not None]
    raise ValueError(
        f"the weights of the CLIP checkpoint {clip_model} cannot be read: it has none of "
        f"{', '.join(_FILES)}, or they are not in the cache and the hub does not answer; name a "
        "checkpoint that has them with --script-clip-model, or use --script-relevance embedding"
    )


def find(clip_model: str, name: str) -> Path | None:
    """A file of a folder, or of a repository in the cache or on the hub; None if there is none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    folder = Path(clip_model)
    if folder.is_dir():
        return path if (path := folder / name).is_file() else None
    try:
        return Path(hf_hub_download(clip_model, name))
    except EntryNotFoundError:
        return None


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of a file, which is mapped, so that only what is used is read."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name.startswith(READ):
                    yield name, file.get_tensor(name)
        return
    mapped = zipfile.is_zipfile(path)  # files of PyTorch before 1.6 are none
    yield from torch.load(path, map_location="cpu", mmap=mapped, weights_only=True).items()
