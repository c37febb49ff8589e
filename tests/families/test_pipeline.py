"""M-RoPE models in a pipeline: the first stage alone knows positions, and sends them along."""

import torch
from vllm.sequence import IntermediateTensors

from vllm_script.families.mrope import POSITIONS, MRopePrunedModel


class Stock:
    """A stage that returns what it was given, and the positions that it saw."""

    def forward(self, input_ids, positions, intermediate_tensors=None, inputs_embeds=None):
        self.seen = positions
        return IntermediateTensors({"hidden_states": torch.zeros(positions.shape[1], 4)})


class Stage(MRopePrunedModel, Stock):
    family = None

    def __init__(self):
        """Nothing: there is no engine."""


def test_a_later_stage_has_the_positions_of_the_first():
    """In the runner's own memory, which the pieces of a CUDA graph go on reading."""
    first, second = Stage(), Stage()
    buffer = torch.zeros(3, 8, dtype=torch.int64)
    for seed in range(2):
        torch.manual_seed(seed)
        positions = torch.randint(99, (3, 5))
        sent = first.forward(None, positions)
        assert sent[POSITIONS].shape == (5, 3) and sent[POSITIONS].is_contiguous()
        second.forward(None, buffer[:, :5], sent)
        assert torch.equal(second.seen, positions)
        assert second.seen.data_ptr() == buffer.data_ptr()
