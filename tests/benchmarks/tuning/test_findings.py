"""What is said and drawn of a search; most of it is tested with the command."""

import numpy as np

from vllm_script.benchmarks.accuracy.settings import Setting, grid
from vllm_script.benchmarks.tuning.findings import flags_of, plot
from vllm_script.benchmarks.tuning.search import Tried


def test_flags():
    assert flags_of(Setting(0.056, "cdpruner", "none")) == (
        "--keep-ratio 0.056 --script-mode cdpruner --script-relevance none"
    )
    assert flags_of(Setting(0.5, "gsp")) == "--keep-ratio 0.5 --script-mode gsp"


def test_a_mean_outside_its_bounds_is_drawn(searched, answering, lossy, tmp_path):
    settings = grid((0.5,), ("gsp",))[1:]
    search = searched(answering(lossy(settings, lambda setting: 0, 100)), 0.05)
    drifted = np.array([1.0] * 50 + [-1.0] * 50)
    assert search.bet.at_least(drifted) > drifted.mean()
    search.tested = [Tried(settings[0], drifted)]
    plot(search, tmp_path / "tune.png")
    assert (tmp_path / "tune.png").read_bytes().startswith(b"\x89PNG")
