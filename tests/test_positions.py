"""Positions of pruned prompts are those of the whole grid with the pruned columns dropped.

However the prompt is cut into steps, whatever the prefix cache had of it, in every float type.
"""

import random

import pytest
import torch

from vllm_script.positions import (
    IN_PLACE,
    NUM_CHANNELS,
    Run,
    coordinate_channels,
    fewest_rows,
    grid_coordinates,
    place_channels,
    place_rows,
    prompt_positions,
)

TEXT, PLACEHOLDER = 0, 1


class Prompt:
    """A random prompt of text, images and videos, some of them pruned, and its true positions."""

    def __init__(self, seed, per_frame=False):
        rng = random.Random(seed)
        self.tokens, self.runs, self.channels, truth, position = [], [], [], [], 0

        def add_text(length):
            nonlocal position
            self.tokens.extend([TEXT] * length)
            truth.append(torch.arange(position, position + length).expand(3, -1))
            position += length

        add_text(rng.randint(1, 30))
        for _ in range(rng.randint(0, 4)):
            frames, height, width = rng.choice([1, 1, 5]), rng.randint(1, 30), rng.randint(1, 30)
            pace = rng.choice([1.0, 2.0, 0.5, 3.7])
            whole = [grid_coordinates(frames, height, width, pace)]
            if per_frame:
                whole = [grid_coordinates(1, height, width)] * frames
            size = whole[0].shape[1]
            count = rng.choice([size, rng.randint(1, size)])
            for run in whole:
                kept = torch.tensor(sorted(rng.sample(range(size), count)))
                self.runs.append(Run(len(self.tokens), count, run))
                self.channels.append(self._channels(run, kept))
                truth.append(torch.from_numpy(run)[:, kept] + position)
                self.tokens.extend([PLACEHOLDER] * count)
                position += int(run.max()) + 1
                add_text(rng.randint(1, 9))
        self.truth = torch.cat(truth, 1)
        self.delta = position - len(self.tokens)

    @staticmethod
    def _channels(run, kept):
        if len(kept) == run.shape[1]:
            return torch.full((len(kept), NUM_CHANNELS), IN_PLACE, dtype=torch.uint8)
        return torch.cat([coordinate_channels([run])[kept], place_channels(1, len(kept))], 1)

    def rows(self, start, end):
        """Channels of the placeholders between two places of the prompt."""
        parts = [torch.empty(0, NUM_CHANNELS, dtype=torch.uint8)]
        for run, channels in zip(self.runs, self.channels, strict=True):
            parts.append(channels[max(0, start - run.offset) : max(0, end - run.offset)])
        return torch.cat(parts)

    def filled_in(self, cuts, dtype=torch.uint8):
        """Positions after steps that end at these places; the first starts where it says."""
        positions, delta = prompt_positions(len(self.tokens), self.runs)
        assert delta == self.delta
        is_placeholder = torch.tensor(self.tokens) == PLACEHOLDER
        for start, end in zip(cuts, [*cuts[1:], len(self.tokens)], strict=True):
            channels = self.rows(start, end).to(dtype)
            positions = place_rows(positions, is_placeholder, channels, start)
        return positions


@pytest.mark.parametrize("per_frame", [False, True], ids=["one run an item", "one run a frame"])
@pytest.mark.parametrize("seed", range(200))
def test_positions_are_those_of_the_whole_grid(seed, per_frame):
    prompt = Prompt(seed, per_frame)
    rng = random.Random(seed)
    length = len(prompt.tokens)
    for hit in (0, rng.randrange(length), rng.randrange(length)):
        cuts = sorted({hit, *(rng.randrange(hit, length) for _ in range(rng.randint(0, 6)))})
        assert torch.equal(prompt.filled_in(cuts)[:, hit:], prompt.truth[:, hit:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_channels_are_exact_in_every_float_type(dtype):
    """Of an image 1,000 tokens wide, 3 high."""
    run = grid_coordinates(3, 3, 1000)
    kept = torch.arange(0, run.shape[1], 7)
    channels = torch.cat([coordinate_channels([run])[kept], place_channels(1, len(kept))], 1)
    tokens = torch.tensor([False] + [True] * len(kept))
    positions = torch.zeros(3, len(tokens), dtype=torch.int64)
    positions = place_rows(positions, tokens, channels.to(dtype), 0)
    assert torch.equal(positions[:, 1:], torch.from_numpy(run)[:, kept] + 1)


def test_a_step_done_again_changes_nothing():
    """A request that was preempted comes again, its positions filled in."""
    prompt = Prompt(3)
    positions = prompt.filled_in([0])
    is_placeholder = torch.tensor(prompt.tokens) == PLACEHOLDER
    again = place_rows(positions, is_placeholder, prompt.rows(5, len(prompt.tokens)), 5)
    assert torch.equal(again, prompt.truth)


@pytest.mark.parametrize("seed", range(20))
def test_positions_are_those_of_transformers(seed):
    """Whole images and videos; of a video, transformers starts the text behind it where the image
    of a frame would end, vLLM after its last position: so it takes no longer than that here."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    rng = random.Random(seed)
    model = Qwen2_5_VLModel.__new__(Qwen2_5_VLModel)
    torch.nn.Module.__init__(model)
    model.config = Qwen2_5_VLConfig(vision_config={"tokens_per_second": 2})
    types, runs, images, videos, seconds = [], [], [], [], []
    for _ in range(rng.randint(1, 4)):
        types += [0] * rng.randint(1, 9)
        frames, height, width = rng.choice([1, 3]), rng.randint(5, 20), rng.randint(5, 20)
        pace = 1.0 if frames == 1 else 2 * rng.choice([0.5, 1.0])
        runs.append(Run(len(types), 0, grid_coordinates(frames, height, width, pace)))
        runs[-1] = runs[-1]._replace(length=runs[-1].coordinates.shape[1])
        types += [1 if frames == 1 else 2] * runs[-1].length
        (images if frames == 1 else videos).append([frames, 2 * height, 2 * width])
        if frames > 1:
            seconds.append(pace / 2)
    types += [0] * rng.randint(1, 9)
    expected, delta = model.get_rope_index(
        torch.zeros(1, len(types), dtype=torch.int64),
        torch.tensor([types]),
        torch.tensor(images) if images else None,
        torch.tensor(videos) if videos else None,
        torch.tensor(seconds) if videos else None,
    )
    positions, ours = prompt_positions(len(types), runs)
    assert torch.equal(positions, expected[:, 0])
    assert ours == int(delta)


@pytest.mark.parametrize("grid, fewest", [((1, 2, 2), 1), ((1, 5, 4), 2), ((1, 1, 200), 50)])
def test_fewest_rows(grid, fewest):
    assert fewest_rows(grid_coordinates(*grid)) == fewest
