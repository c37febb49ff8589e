"""What an installation makes importable: `vllm_script`, and no package of ours beside it.

A package called `kernels` would shadow Hugging Face's, which transformers imports.
"""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
REPORT = """
import importlib.util, sys
sys.path[:0] = sys.argv[1:]
ours = ("kernels", "server", "benchmarks", "benchmarks.serving", "benchmarks.checkpoints")
for name in ("vllm_script", *(f"vllm_script.{name}" for name in ours), *ours[:3]):
    spec = importlib.util.find_spec(name)
    print(name, spec and spec.origin)
"""
PACKAGES = {
    "vllm_script",
    "vllm_script.benchmarks",
    "vllm_script.benchmarks.checkpoints",
    "vllm_script.benchmarks.serving",
    "vllm_script.kernels",
    "vllm_script.server",
}


def importable(cwd, *path, flags=()):
    """Where Python finds the packages, by name; those it does not find are left out."""
    command = [sys.executable, "-P", *flags, "-c", REPORT, *map(str, path)]
    lines = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout
    found = dict(line.split() for line in lines.splitlines())
    return {name: pathlib.Path(origin) for name, origin in found.items() if origin != "None"}


@pytest.fixture(scope="module")
def wheel_folder(tmp_path_factory):
    """The wheel, built from a copy of the sources and unpacked."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    wanted = shutil.ignore_patterns(".*", "build", "tests", "runs", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=wanted)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", work, source]
    subprocess.run(build, check=True)
    (wheel,) = work.glob("vllm_script-*.whl")
    install = [*pip, "install", "--no-deps", "--target", work / "site", wheel]
    subprocess.run(install, check=True)
    return work / "site"


def test_wheel(wheel_folder, tmp_path):
    found = importable(tmp_path, wheel_folder)
    assert found.keys() == PACKAGES
    assert all(wheel_folder in origin.parents for origin in found.values())
    for data in ("py.typed", "server/grafana.json", "benchmarks/scene.png"):
        assert (wheel_folder / "vllm_script" / data).exists()
    for left_out in ("results", "demo_model"):
        assert not (wheel_folder / "vllm_script" / "benchmarks" / left_out).exists()
    top_level = {path.name for path in wheel_folder.iterdir() if path.suffix != ".dist-info"}
    assert top_level == {"vllm_script", "bin"}
    assert [path.name for path in (wheel_folder / "bin").iterdir()] == ["vllm-script"]


def test_wheel_has_the_entry_points(wheel_folder):
    (text,) = [path.read_text() for path in wheel_folder.glob("*.dist-info/entry_points.txt")]
    assert "[vllm.general_plugins]\nscript = vllm_script.plugin:register\n" in text
    assert "[console_scripts]\nvllm-script = vllm_script.server.command:main\n" in text


@pytest.mark.parametrize("cwd", ["/", ROOT], ids=["elsewhere", "in the repository"])
def test_editable_install(cwd):
    found = importable(cwd)
    assert found.keys() == PACKAGES
    for folder in ("benchmarks", "kernels"):
        assert found[f"vllm_script.{folder}"] == ROOT / folder / "__init__.py"


def test_these_tests_do_not_see_the_repository_root():
    assert str(ROOT) not in sys.path
