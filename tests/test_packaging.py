"""What an installation makes importable: `vllm_script`, and no package of ours beside it.

A package called `kernels` would shadow Hugging Face's, which transformers imports.
"""

import importlib.metadata
import json
import os
import pathlib
import shutil
import site
import subprocess
import sys
import venv

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vllm_script.patches.probing import SUPPORTED_VLLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ("py.typed", "server/grafana.json", "benchmarks/scene.png")
DATA += tuple(f"server/page/{file.name}" for file in (ROOT / "server" / "page").iterdir())
PLUGIN = "benchmarks/lmms_eval/plugin/vllm_script_lmms_eval/model.py"
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


PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources."""
    work = tmp_path_factory.mktemp("wheel")
    source = work / "source"
    wanted = shutil.ignore_patterns(".*", "build", "tests", "runs", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=wanted)
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", work, source]
    subprocess.run(build, check=True)
    (wheel,) = work.glob("vllm_script-*.whl")
    shutil.rmtree(source)
    return wheel


@pytest.fixture(scope="module")
def wheel_folder(wheel):
    """The wheel, unpacked."""
    folder = wheel.parent / "site"
    subprocess.run([*PIP, "install", "--no-deps", "--target", folder, wheel], check=True)
    return folder


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory):
    """elsewhere(*command) -> what it prints; run in an environment where the wheel is installed.

    The environment is a new one, with the packages of this one but not its editable install of
    the project; the folder is not the checkout.
    """
    work = tmp_path_factory.mktemp("environment")
    venv.create(work, symlinks=True)
    python = work / "bin" / "python"
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = pathlib.Path(subprocess.check_output([python, "-c", where], text=True).strip())
    (packages / "packages_of_the_tests.pth").write_text("\n".join(packages_of_the_tests()))
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", wheel], check=True)

    def run(program, *arguments, timeout=600):
        (work / "cwd").mkdir(exist_ok=True)
        ours = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(
            [work / "bin" / program, *arguments],
            cwd=work / "cwd",
            env=ours | {"TRITON_INTERPRET": "0"},  # as users have it
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def packages_of_the_tests():
    """Lines of a .pth file: the folders of packages, and what other .pth files there run.

    A .pth file in a folder that is added by one is not read, so an editable install is not active.
    """
    folders = [path for path in sys.path if pathlib.Path(path).name == "site-packages"]
    folders += [path for path in site.getsitepackages() if path not in folders]
    yield from folders
    for folder in map(pathlib.Path, folders):
        for file in folder.glob("*.pth"):
            if not file.name.startswith("__editable__"):
                lines = file.read_text().splitlines()
                yield from (line for line in lines if line.startswith("import "))


ORIGIN = """
import json, vllm_script, vllm_script.kernels, vllm_script.server
print(json.dumps([m.__file__ for m in (vllm_script, vllm_script.kernels, vllm_script.server)]))
"""
QUESTION = """
import base64, json, sys, urllib.request
from vllm_script.server.launch import VllmServer
picture, question = sys.argv[1:]
url = "data:image/png;base64," + base64.b64encode(open(picture, "rb").read()).decode()
content = [
    {"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question},
]
body = {
    "model": "script-demo", "messages": [{"role": "user", "content": content}],
    "max_tokens": 8, "temperature": 0,
}
with VllmServer("script-demo", "--plugin", "script", "--enforce-eager") as server:
    request = urllib.request.Request(
        server.url + "/chat/completions", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    answer = json.load(urllib.request.urlopen(request, timeout=120))
    log = server.log()
print(json.dumps([answer["choices"][0]["message"]["content"], answer["usage"], log]))
"""


@pytest.mark.real
def test_the_wheel_in_a_clean_environment(elsewhere):
    """`vllm-script doctor` and `vllm serve` of the bundled model, without the checkout."""
    for origin in json.loads(elsewhere("python", "-c", ORIGIN)):
        assert ROOT not in pathlib.Path(origin).parents
    report = elsewhere("vllm-script", "doctor", "script-demo")
    assert report.splitlines()[-1] == "All is well: pruning works here."
    assert "--loss POINTS" in elsewhere("vllm-script", "tune", "--help")
    picture = ROOT / "benchmarks" / "scene.png"
    printed = elsewhere("python", "-c", QUESTION, picture, "What color is the cross?")
    text, usage, log = json.loads(printed.splitlines()[-1])
    assert text.strip() == "blue"
    assert usage["prompt_tokens"] < 200  # of 1,008 visual tokens 111 are kept
    assert "Script pruning: keep ratio 0.11, mode script, relevance clip" in log


def test_wheel(wheel_folder, tmp_path):
    found = importable(tmp_path, wheel_folder)
    assert found.keys() == PACKAGES
    assert all(wheel_folder in origin.parents for origin in found.values())
    for data in (*DATA, PLUGIN):
        assert (wheel_folder / "vllm_script" / data).exists()
    for left_out in ("results", "demo_model", "photo_model", "training"):
        assert not (wheel_folder / "vllm_script" / "benchmarks" / left_out).exists()
    top_level = {path.name for path in wheel_folder.iterdir() if path.suffix != ".dist-info"}
    assert top_level == {"vllm_script", "bin"}
    assert [path.name for path in (wheel_folder / "bin").iterdir()] == ["vllm-script"]


def metadata_of(folder):
    (distribution,) = importlib.metadata.distributions(name="vllm-script", path=[str(folder)])
    return distribution.metadata


def test_pip_leaves_every_supported_vllm_as_it_is(wheel_folder):
    (wanted,) = {
        requirement.specifier
        for requirement in map(Requirement, metadata_of(wheel_folder).get_all("Requires-Dist"))
        if requirement.name == "vllm"
    }
    for minor in SUPPORTED_VLLM:
        assert all(f"{minor}.{patch}" in wanted for patch in ("0", "7", "0+cpu"))
    major, newest = map(int, SUPPORTED_VLLM[-1].split("."))
    assert f"{major}.{newest + 1}.0" not in wanted
    assert f"{major}.{newest - len(SUPPORTED_VLLM)}.9" not in wanted


def test_pythons_are_those_of_vllm(wheel_folder):
    own = SpecifierSet(metadata_of(wheel_folder)["Requires-Python"])
    names = importlib.metadata.packages_distributions()["vllm"]
    theirs = [importlib.metadata.metadata(name)["Requires-Python"] for name in names]
    assert theirs and all(SpecifierSet(pythons) == own for pythons in theirs)
    versions = [f"3.{minor}" for minor in range(5, 30) if f"3.{minor}.1" in own]
    text = (ROOT / ".ci" / "install.py").read_text()
    oldest, newest = (version.replace(".", ", ") for version in (versions[0], versions[-1]))
    assert f"PYTHONS = (({oldest}), ({newest}))" in text
    for page in ("README.md", ".github/CONTRIBUTING.md"):
        assert f"Python {versions[0]} to {versions[-1]}" in (ROOT / page).read_text()


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
