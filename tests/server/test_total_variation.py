"""How far two first-token distributions are apart, where only their likeliest tokens are known."""

import pytest

from vllm_script.server.shadow import total_variation


@pytest.mark.parametrize(
    ("p", "q", "distance"),
    [
        ({1: 0.75, 2: 0.25}, {1: 0.75, 2: 0.25}, 0),
        ({1: 0.5}, {1: 0.5}, 0),
        ({1: 1.0}, {2: 1.0}, 1),
        ({1: 0.75, 2: 0.25}, {1: 0.25, 2: 0.75}, 0.5),
        ({1: 0.75}, {1: 0.25}, 0.5),
        ({1: 0.5, 2: 0.25}, {1: 0.5, 3: 0.25}, 0.25),
    ],
)
def test_total_variation(p, q, distance):
    assert total_variation(p, q) == total_variation(q, p) == distance
