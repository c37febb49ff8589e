"""What selections keep of a drawn photograph."""

import json

import pytest
import torch
from PIL import Image

from vllm_script import select_visual_tokens
from vllm_script.benchmarks.photos.measures import WAYS, measure
from vllm_script.benchmarks.photos.tower import load_tower
from vllm_script.pruning import MODES

RATIOS = (0.5, 0.1)


@pytest.fixture
def measured(photos, tower):
    """measured(number) -> the line of a drawn photograph, and its tokens."""

    def of(number):
        tokens = load_tower(tower).tokens_of(Image.open(photos[number].path))
        return measure(photos[number], tokens, None, RATIOS), tokens

    return of


def test_what_is_there(measured):
    line, _ = measured(0)
    assert line["tokens"] == 196 and line["pool"] == 98 and line["panoptic"]
    objects = {each["category"]: each["tokens"] for each in line["objects"]}
    assert objects == {"sky": 92, "grass": 78, "ball": 20, "kite": 6}
    assert [each["size"] for each in line["objects"]] == ["large", "large", "large", "medium"]
    assert [each["tokens"] for each in line["segments"]] == [92, 78, 16, 4, 6]
    assert sum(each["in_pool"] for each in line["segments"]) == line["pool"]
    assert json.loads(json.dumps(line)) == line


def test_every_way_is_measured(measured):
    kept = measured(0)[0]["kept"]
    sources = ["mask", "mask + noise 1", "mask + noise 2"]
    assert {"script", "script centered", "divprune centered", "random"} < set(map(str, WAYS))
    assert set(kept) == {*map(str, WAYS), "relevance alone"}
    for way in WAYS:
        own = sources if MODES[way.mode].reads_query else []
        assert list(kept[str(way)]) == ["", *own]
    assert list(kept["relevance alone"]) == sources
    for own in kept.values():
        assert all(list(each) == ["0.5", "0.1"] for each in own.values())
        assert all(len(each["0.1"]) == 2 for each in own.values())  # ball and kite


def test_perfect_relevance_alone_keeps_all_that_is_asked_for(measured):
    line, _ = measured(0)
    (ball, kite) = line["kept"]["relevance alone"]["mask"]["0.1"]
    assert (ball[0], kite[0]) == (20, 6)
    assert ball[2:] == [0, 2, 0]  # exactly the 20 tokens of both balls
    assert line["objects"][2]["auroc"]["mask"] == 1


def test_distances_and_hits_by_hand(measured):
    line, tokens = measured(0)
    kept = select_visual_tokens(tokens, 20, mode="uniform")
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    dropped = [token for token in range(196) if token not in kept.tolist()]
    nearest = [(1 - unit[token] @ unit[kept].T).min() for token in dropped]
    ball, kite = line["kept"]["uniform"][""]["0.1"]
    assert ball[1] == kite[1] == pytest.approx(torch.stack(nearest).mean().item(), abs=1e-4)
    assert ball[2:] == kite[2:]
    places = [(int(token) // 14, int(token) % 14) for token in kept]
    balls = [(y, x) for y, x in places if (8 <= y < 12 and 2 <= x < 6)]
    balls += [(y, x) for y, x in places if (9 <= y < 11 and 10 <= x < 12)]
    assert ball[0] == len(balls)


def test_the_same_again(measured):
    assert measured(0)[0] == measured(0)[0]


def test_things_alone(measured):
    line, _ = measured(12)
    assert not line["panoptic"]
    assert [each["category"] for each in line["objects"]] == ["ball"]
