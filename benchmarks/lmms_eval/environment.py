"""lmms-eval in a virtual environment of its own: what it pins does not belong beside vLLM."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

PLUGIN = Path(__file__).parent / "plugin"
"""What is installed: it requires lmms-eval, and is our model for it."""
STAMP = "installed"


def lmms_eval() -> str:
    """What the environment has: "lmms-eval==0.7.3"."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(str(name) for name in project["dependencies"] if name.startswith("lmms-eval=="))


def python_of(folder: Path) -> Path:
    """The Python of an environment."""
    return folder / "bin" / "python"


def is_set_up(folder: Path) -> bool:
    """Whether there is an environment with all that this version of the plugin needs."""
    stamp = folder / STAMP
    return stamp.exists() and stamp.read_text() == _fingerprint()


def set_up(folder: Path) -> Path:
    """Make the environment if it is not there, and return its Python.

    Raises:
        RuntimeError: pip could not install what is needed; its message is on the terminal.
    """
    python, wanted = python_of(folder), _fingerprint()
    if not is_set_up(folder):
        print(f"installing lmms-eval in {folder} (minutes, several GB)", file=sys.stderr)
        if not python.exists():
            venv.create(folder, with_pip=True)
        if not _install(python):
            raise RuntimeError(
                f"pip could not install lmms-eval in {folder} (see above); it needs a network. "
                "Try again, or give the folder of an environment that has it by --environment"
            )
        (folder / STAMP).write_text(wanted)
    return python


def _install(python: Path) -> bool:
    """Whether pip could install the plugin; from a copy, for pip builds where the sources are."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(PLUGIN, Path(folder) / PLUGIN.name)
        command = [str(python), "-m", "pip", "-q", "install", "--upgrade", str(copy)]
        return subprocess.run(command, env=clean_environment(), check=False).returncode == 0


def clean_environment() -> dict[str, str]:
    """The environment variables of this process, without those that lead to its own packages."""
    own = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    return {k: v for k, v in os.environ.items() if k not in own} | {"PYTHONSAFEPATH": "1"}


def _fingerprint() -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted([*PLUGIN.glob("*.toml"), *PLUGIN.glob("vllm_script_lmms_eval/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
