"""What a run depends on: the GPU, the versions, the sources."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vllm_script.benchmarks import gpu_report
from vllm_script.benchmarks.gpu.machine import commit_of, digest_of

ROOT = Path(__file__).resolve().parents[3]


def test_without_a_gpu_one_sentence_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["benchmarks/gpu_report.py", "--out", str(tmp_path)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu_report.main()
    sentence = ended.value.code  # which is written to stderr, with status 1
    assert sentence.startswith("gpu_report.py: all that this command runs needs an NVIDIA GPU, and")
    assert f"torch {torch.__version__}" in sentence and "\n" not in sentence
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_the_folder_of_a_machine(machine):
    assert re.fullmatch("h100-80gb-hbm3-[0-9a-f]{10}", machine().key)
    assert machine(commit="another").key == machine().key
    others = [{"gpu": "NVIDIA L4"}, {"driver": "1"}, {"versions": "2"}, {"sources": "3"}]
    assert len({machine(**changes).key for changes in [{}, *others]}) == 5
    assert machine(gpu="NVIDIA GeForce RTX 4090").slug == "geforce-rtx-4090"


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one file of kernels/."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "gather.py").write_text("one = 1\n")
    (tmp_path / "README.md").write_text("a page\n")
    return tmp_path


def test_sources(checkout):
    before = digest_of(checkout)
    (checkout / "README.md").write_text("another page\n")
    assert digest_of(checkout) == before
    (checkout / "kernels" / "gather.py").write_text("one = 2\n")
    assert digest_of(checkout) != before
    assert digest_of(ROOT) == digest_of(ROOT)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit(checkout):
    assert commit_of(checkout) == "not known, this is no git checkout"
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    assert re.fullmatch("[0-9a-f]{12}", commit_of(checkout))
    (checkout / "kernels" / "gather.py").write_text("one = 2\n")
    assert commit_of(checkout).endswith(", with changes")
