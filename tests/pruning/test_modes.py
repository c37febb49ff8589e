"""What the table of modes says of each is what the mode does, in images and in videos."""

import dataclasses
import itertools

import pytest
import torch

from vllm_script.config import ScriptConfig
from vllm_script.plan import make_plan
from vllm_script.pruning import MODES, PruningParams, run_mode
from vllm_script.pruning.frames import frame_floors
from vllm_script.pruning.task import Task

PARAMS = [field.name for field in dataclasses.fields(PruningParams)]
NUM_FRAMES = 5

OTHER_VALUES = {
    "tau": (-0.5, 0.0, 0.3, 0.9),
    "tau_relative": (False,),
    "gamma": (0.0, 10.0),
    "pool_ratio": (0.0, 0.8, 1.0),
    "seed": (1, 2),
    "geometry": ("centered",),
}


def tokens(seed):
    """Sixty tokens that share a direction, as those of real encoders do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(60, 16, generator=generator) + 0.5


def relevance(seed):
    return torch.rand(60, generator=torch.Generator().manual_seed(100 + seed))


def selections(mode, params, own_relevance):
    """What is kept of images and of videos, by kind, at a small and at a large budget."""
    kept = {"image": [], "video": [], "video with even shares": []}
    for seed, budget in itertools.product(range(4), (12, 45)):
        all_floors = (None, *(frame_floors(budget, NUM_FRAMES, even) for even in (False, True)))
        for kind, floors in zip(kept, all_floors, strict=True):
            score = own_relevance(seed)
            kept[kind].append(run_mode(tokens(seed), budget, score, mode, params, floors).tolist())
    return kept


def watched(record, seen):
    """A copy of a dataclass's instance that adds to `seen` the name of whatever is read of it."""

    class Watched(type(record)):
        def __getattribute__(self, name):
            seen.add(name)
            return super().__getattribute__(name)

    copy = object.__new__(Watched)
    vars(copy).update(vars(record))
    return copy


@pytest.mark.parametrize("floors", [None, [1] * NUM_FRAMES], ids=["image", "video"])
@pytest.mark.parametrize("mode", MODES)
def test_a_mode_reads_what_its_line_says(mode, floors):
    own, seen = MODES[mode], set()
    task = Task(tokens(0), 12, relevance(0), mode, watched(PruningParams(), seen), floors)
    own.select([watched(task, seen)])
    assert seen & set(PARAMS) == set(own.reads)
    assert ("relevance" in seen) == own.reads_query
    assert ("floors" in seen) == own.knows_frames


@pytest.mark.parametrize("name", PARAMS)
@pytest.mark.parametrize("mode", MODES)
def test_a_parameter_changes_the_selection_where_it_is_read(mode, name):
    kept = selections(mode, PruningParams(), relevance)
    others = [
        selections(mode, PruningParams(**{name: value}), relevance) for value in OTHER_VALUES[name]
    ]
    for kind in kept:
        changed = any(other[kind] != kept[kind] for other in others)
        assert changed == (name in MODES[mode].reads)


@pytest.mark.parametrize("mode", MODES)
def test_the_query_changes_the_selection_where_it_is_read(mode):
    kept = selections(mode, PruningParams(), relevance)
    other = selections(mode, PruningParams(), lambda seed: relevance(seed + 50))
    without = selections(mode, PruningParams(), lambda seed: None)
    for kind in kept:
        assert (other[kind] != kept[kind]) == MODES[mode].reads_query
        assert (without[kind] != kept[kind]) == MODES[mode].reads_query


@pytest.mark.parametrize("mode", MODES)
def test_the_operators_parameters_reach_the_selection(mode):
    """An image's plan has only what the mode reads, and selects what all parameters would."""
    chosen = {"tau": 0.3, "tau_relative": False, "gamma": 2.0, "pool_ratio": 0.8, "seed": 5}
    chosen["geometry"] = "centered"
    assert set(chosen) == set(PARAMS)
    plan = make_plan(ScriptConfig.from_dict({"mode": mode, **chosen}), ())
    expected = selections(mode, PruningParams(**chosen), relevance)
    assert selections(plan.mode, plan.params, relevance) == expected


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_that_knows_no_frames_sees_one_at_a_time(mode, monkeypatch):
    """In a video no selection without frames gets floors, nor loses what it would read."""
    seen = []
    known = MODES[mode]
    noting = known._replace(select=lambda tasks: seen.extend(tasks) or known.select(tasks))
    monkeypatch.setitem(MODES, mode, noting)
    run_mode(tokens(0), 12, relevance(0), mode, PruningParams(), [1] * NUM_FRAMES)
    if known.knows_frames:
        assert [len(task.floors) for task in seen] == [NUM_FRAMES]
    else:
        assert [task.num_tokens for task in seen] == [12] * NUM_FRAMES + [60 - NUM_FRAMES]
        assert all(task.floors is None for task in seen)
        own = torch.cat([task.relevance for task in seen[:NUM_FRAMES]])
        assert torch.equal(own, relevance(0))
