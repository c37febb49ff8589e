"""Which tokens belong to what."""

import pytest
import torch

from vllm_script.benchmarks.photos.truth import askable, segments_of, size_of


def grid(left, top, right, bottom, side=14):
    inside = torch.zeros(side, side, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    return inside.flatten()


def test_segments_are_where_they_were_drawn(photos):
    sky, grass, large, small, kite = segments_of(photos[0], 196)
    assert torch.equal(large.tokens, grid(2, 8, 6, 12))
    assert torch.equal(small.tokens, grid(10, 9, 12, 11))
    assert torch.equal(sky.tokens, grid(0, 0, 14, 7) & ~kite.tokens)
    assert int(grass.tokens.sum()) == 98 - 16 - 4
    assert [s.size for s in (sky, grass, large, small, kite)] == [
        *("large", "large", "medium", "medium", "medium"),
    ]


def test_one_asks_for_all_of_a_category(photos):
    regions = {region.category: region for region in askable(photos[0], 196)}
    assert set(regions) == {"sky", "grass", "ball", "kite"}
    assert torch.equal(regions["ball"].tokens, grid(2, 8, 6, 12) | grid(10, 9, 12, 11))


def test_what_the_grid_does_not_see_is_not_asked_for(photos):
    """On 2x2 tokens the balls cover less than a half of any, and sky and grass two each."""
    assert [region.category for region in askable(photos[0], 4)] == ["sky", "grass"]
    assert [segment.category for segment in segments_of(photos[0], 4)] == ["sky", "grass"]


@pytest.mark.parametrize(
    "tokens, size", [(1, "small"), (2, "small"), (3, "medium"), (10, "medium"), (11, "large")]
)
def test_sizes(tokens, size):
    assert size_of(tokens, 100) == size
