"""lmms-eval's environment, with a pip that is pretended."""

import subprocess

import pytest

from vllm_script.benchmarks.lmms_eval import environment


def create(folder, with_pip):
    python = environment.python_of(folder)
    python.parent.mkdir(parents=True)
    python.touch()


@pytest.fixture
def pip(monkeypatch):
    """What pip is called with; `pip.status` is how it ends."""

    class Pip(list):
        status = 0

        def __call__(self, command, *, env, check):
            self.append((command, env))
            return subprocess.CompletedProcess(command, self.status)

    pip = Pip()
    monkeypatch.setattr(environment.subprocess, "run", pip)
    monkeypatch.setattr(environment.venv, "create", create)
    return pip


def test_it_is_installed_once_and_again_when_the_plugin_changes(pip, tmp_path, monkeypatch):
    folder = tmp_path / "lmms-eval"
    monkeypatch.setenv("PYTHONPATH", "somewhere")
    for _ in range(2):
        assert environment.set_up(folder) == folder / "bin" / "python"
    ((command, variables),) = pip
    assert command[:3] == [str(folder / "bin" / "python"), "-m", "pip"]
    assert "install" in command and "PYTHONPATH" not in variables
    assert str(environment.PLUGIN) not in command  # pip builds where the sources are: in a copy
    monkeypatch.setattr(environment, "_fingerprint", lambda: "another plugin")
    assert not environment.is_set_up(folder)
    environment.set_up(folder)
    assert len(pip) == 2


def test_what_pip_could_not_install_is_tried_again(pip, tmp_path):
    folder = tmp_path / "lmms-eval"
    pip.status = 1
    with pytest.raises(RuntimeError, match="could not install lmms-eval.*needs a network"):
        environment.set_up(folder)
    assert not environment.is_set_up(folder)
    pip.status = 0
    environment.set_up(folder)
    assert environment.is_set_up(folder)


def test_the_version_that_reports_name_is_the_one_that_is_installed():
    assert environment.lmms_eval() == "lmms-eval==0.7.3"
