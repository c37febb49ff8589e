import torch

from vllm_script import select_visual_tokens


def test_divprune_by_hand():
    # Directions in degrees. Nearest neighbours are 10, 10, 80 and 110 away: 200 comes first.
    # From it 0, 10, 90 are 160, 170, 110 away: 10. From their nearest pick 0 and 90 are 10 and
    # 80 away: 90.
    angle = torch.tensor([0.0, 10.0, 90.0, 200.0]).deg2rad()
    tokens = torch.stack([angle.cos(), angle.sin()], dim=1)
    kept = [select_visual_tokens(tokens, k, mode="divprune").tolist() for k in (1, 2, 3)]
    assert kept == [[3], [1, 3], [1, 2, 3]]


def test_divprune_equals_its_definition():
    tokens = torch.randn(40, 16, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(tokens)
    distance = 1 - unit @ unit.T
    nearest = (distance + 9 * torch.eye(40)).amin(1)
    picks = [int(nearest.argmax())]
    for _ in range(11):
        to_picks = distance[:, picks].amin(1)
        to_picks[picks] = -1
        picks.append(int(to_picks.argmax()))
    assert select_visual_tokens(tokens, 12, mode="divprune").tolist() == sorted(picks)
