"""The methods that vLLM adds to its worker."""

from types import SimpleNamespace

import pytest
import torch

from vllm_script.extension import WORKER_EXTENSION, ScriptWorker
from vllm_script.worker.selector import Selection


class Worker(ScriptWorker):
    """As vLLM makes it, with a model that nobody watches."""

    def __init__(self):
        self.model = SimpleNamespace(selection_watcher=None, take_observations=lambda: {"a": 1})

    def get_model(self):
        return self.model


def test_the_name_that_vllm_is_given():
    module, _, name = WORKER_EXTENSION.rpartition(".")
    assert (module, name) == (ScriptWorker.__module__, ScriptWorker.__name__)


def test_selections_are_kept_once_somebody_asks():
    worker = Worker()
    for _ in range(2):
        worker.script_keep_selections()
        worker.model.selection_watcher("a", Selection(torch.tensor([2, 5]), None))
    taken = {"kept": [2, 5], "relevance": None, "candidates": None}
    assert worker.script_take_selections(["a", "a"]) == [taken, None]


def test_a_model_that_is_built_anew_is_watched_too():
    worker = Worker()
    worker.script_keep_selections()
    worker.model = SimpleNamespace(selection_watcher=None)
    worker.script_keep_selections()
    assert worker.model.selection_watcher is not None


def test_selections_are_taken_after_they_were_asked_for():
    with pytest.raises(AssertionError, match="script_keep_selections comes first"):
        Worker().script_take_selections(["a"])


def test_observations_are_the_models():
    assert Worker().script_take_observations() == {"a": 1}
