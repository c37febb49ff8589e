"""On what everything is run: the GPU, the versions, and the sources as they are at this moment."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..common import accelerator, driver, repeatable

PACKAGES = ("vllm-script", "vllm", "torch", "triton", "transformers")
SOURCES = ("benchmarks", "kernels", "server", "tests", "vllm_script")
ASK = """
import json, torch
gpu = torch.cuda.get_device_properties(0)
print(json.dumps([
    gpu.name, gpu.total_memory / 2**30, f"{gpu.major}.{gpu.minor}", gpu.multi_processor_count
]))
"""


class NoGpu(Exception):
    """There is no GPU to run anything on."""


@dataclass(frozen=True)
class Machine:
    """A GPU and the software on it."""

    gpu: str
    """Its name."""
    gib: float
    """Its memory."""
    capability: str
    """Its compute capability, such as 9.0."""
    multiprocessors: int
    driver: str
    """Version of its driver."""
    versions: str
    """Of Python, CUDA and the packages."""
    sources: str
    """Digest of every Python file of the checkout, committed or not."""
    commit: str
    """Of the checkout, for a reader; with a note where files differ from it."""

    @property
    def slug(self) -> str:
        """The GPU's name as part of a folder's."""
        words = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        return words.removeprefix("nvidia-")

    @property
    def key(self) -> str:
        """Name of the folder for results of this GPU, these versions and these sources."""
        same = [self.gpu, self.gib, self.driver, self.versions, self.sources]
        return f"{self.slug}-{hashlib.sha256(json.dumps(same).encode()).hexdigest()[:10]}"

    @property
    def about(self) -> dict[str, Any]:
        """What a reader needs beside every figure."""
        return {
            "GPU": f"{self.gpu}, {self.gib:.0f} GiB, {self.multiprocessors} multiprocessors, "
            f"compute capability {self.capability}",
            "driver": self.driver,
            "versions": self.versions,
            "commit": self.commit,
            "digest of the sources": self.sources,
        }


def this_machine(root: Path) -> Machine:
    """The machine at hand. CUDA is started in another process, so that this one takes no memory.

    Args:
        root: the checkout.

    Raises:
        NoGpu: PyTorch or vLLM have no CUDA GPU here.
    """
    packages = repeatable(PACKAGES)["versions"]
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=False)
    if asked.returncode != 0 or accelerator() is None:
        last = (asked.stderr.strip().splitlines() or ["this vLLM is one for CPUs"])[-1]
        raise NoGpu(
            f"all that this command runs needs an NVIDIA GPU, and there is none that {packages} "
            f"can use ({last})"
        )
    name, gib, capability, multiprocessors = json.loads(asked.stdout.splitlines()[-1])
    return Machine(
        name,
        gib,
        capability,
        multiprocessors,
        driver(),
        f"Python {platform.python_version()}, CUDA {torch.version.cuda}, {packages}",
        digest_of(root),
        commit_of(root),
    )


def digest_of(root: Path) -> str:
    """Digest of the Python files of a checkout: what a commit is, where there is no git."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in SOURCES for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def commit_of(root: Path) -> str:
    """The commit that is checked out, and whether files differ from it."""
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "not known, this is no git checkout"
    return f"{commit}, with changes" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
