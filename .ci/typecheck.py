"""Run mypy over the package as it is installed, with kernels/, server/ and benchmarks/ below
vllm_script.

In the checkout they are folders beside it, where mypy would not find them and check nothing that
crosses from one to the other. So it is shown a folder of links.
"""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INSTALLED = ROOT / "build" / "typecheck"
BESIDE = ("kernels", "server", "benchmarks")


def main() -> int:
    shutil.rmtree(INSTALLED, ignore_errors=True)
    package = INSTALLED / "vllm_script"
    package.mkdir(parents=True)
    for path in [*(ROOT / "vllm_script").iterdir(), *(ROOT / name for name in BESIDE)]:
        (package / path.name).symlink_to(path)
    cache = ROOT / ".mypy_cache"
    command = [sys.executable, "-m", "mypy", "-p", "vllm_script", "--cache-dir", str(cache)]
    config = ["--config-file", str(ROOT / "pyproject.toml")]
    return subprocess.run([*command, *config, *sys.argv[1:]], cwd=INSTALLED).returncode


if __name__ == "__main__":
    sys.exit(main())
