"""Let a CUDA build of torchvision import beside a CPU build of torch.

Its compiled operators cannot load there, and torchvision stops when it registers shape functions
for two operators that nobody declared: `operator torchvision::nms does not exist`. Declaring both
before the import is enough: vLLM only uses torchvision's image transforms, which are plain PyTorch.
Acts on the first `import torchvision` of a process; does nothing where torchvision is a CPU build.
"""

import importlib.machinery
import pathlib
import sys


class _DeclareOperators:
    """An import hook that finds nothing and runs once."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(_DeclareOperators)
            spec = importlib.machinery.PathFinder.find_spec(name)
            if spec is not None and spec.origin is not None:
                _declare_operators(pathlib.Path(spec.origin).with_name("version.py").read_text())
        return None


def _declare_operators(torchvision_version: str) -> None:
    import torch

    if torch.version.cuda is not None or "+cu" not in torchvision_version:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DeclareOperators.library = library  # the declarations live as long as this object


sys.meta_path.insert(0, _DeclareOperators)
