"""What a high cosine of patch and text means, measured, against what a configuration says."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

import vllm_script
from vllm_script.relevance import polarity
from vllm_script.relevance.checkpoint import READ
from vllm_script.relevance.clip import ClipRelevance
from vllm_script.relevance.polarity import Polarity, measure_polarity

DEMO = Path(vllm_script.__file__).parent / "script_demo"


def measured(model, folder):
    """The polarity of a CLIP that is read at its last layer but one."""
    config = model.config
    weights = {n: w for n, w in model.state_dict().items() if n.startswith(READ)}
    clip = ClipRelevance(config, weights, torch.float32, "cpu")
    sizes = config.vision_config.image_size, config.vision_config.patch_size

    def states_of(pixels):
        assert len(pixels) == 1, "no more at once than memory is there for"
        return model.vision_model(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]

    return measure_polarity(clip, str(folder), states_of, *sizes)


@pytest.fixture(scope="module")
def demo():
    return CLIPModel.from_pretrained(DEMO / "clip", dtype=torch.float32)


@pytest.fixture
def negated(demo):
    """script-demo's CLIP whose patches have the opposite cosine with every text."""
    with torch.no_grad():
        demo.visual_projection.weight.neg_()
    yield demo
    with torch.no_grad():
        demo.visual_projection.weight.neg_()


@pytest.mark.parametrize(("configured", "is_right"), [("positive", True), ("negative", False)])
def test_script_demo_is_positive(demo, configured, is_right, monkeypatch):
    monkeypatch.setattr(demo.config, "patch_polarity", configured)
    found = measured(demo, DEMO / "clip")
    assert (found.configured, found.is_right) == (configured, is_right)
    assert abs(found.auroc - is_right) < 0.01


@pytest.mark.parametrize(("configured", "is_right"), [("positive", False), ("negative", True)])
def test_its_negation_is_negative(negated, configured, is_right, monkeypatch):
    monkeypatch.setattr(negated.config, "patch_polarity", configured)
    found = measured(negated, DEMO / "clip")
    assert (found.configured, found.is_right) == (configured, is_right)
    assert found.opposite in str(found) or is_right


def test_what_knows_no_drawings_is_not_judged():
    """CLIPs with random weights."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    sizes["num_hidden_layers"] = 3
    for seed in range(10):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = CLIPConfig(
                text_config={**sizes, "vocab_size": 512, "eos_token_id": 511},
                vision_config={**sizes, "image_size": 84, "patch_size": 14},
                projection_dim=32,
            )
            model = CLIPModel(config)
        found = measured(model, DEMO / "clip")
        assert found.is_right is None and "cannot tell" in str(found), (seed, found)


def test_the_verdict_needs_the_whole_interval():
    verdicts = [Polarity("negative", *pair).is_right for pair in ((0.8, 0.05), (0.2, 0.05))]
    assert verdicts == [True, False]
    for auroc, reach in (0.8, 0.2), (0.2, 0.2), (0.65, 0.01), (0.5, 0):
        assert Polarity("negative", auroc, reach).is_right is None


def test_pictures_show_three_things_apart():
    for side in (84, 112, 336):
        for picture, things in polarity._pictures(side):
            masks = list(things.values())
            assert picture.shape == (side, side, 3) and len(masks) == 3
            assert sum(map(lambda mask: mask.astype(int), masks)).max() == 1
            assert all(0.02 < mask.mean() < 0.15 for mask in masks)
            assert len({name.split()[1] for name in things}) == 3
