"""Random-weight checkpoints by name."""

import pytest
from safetensors import safe_open
from serve import checkpoints
from serve.checkpoints import FAMILY_MODELS, written


@pytest.mark.parametrize("family", [name for name in FAMILY_MODELS if name != "llava-next"])
def test_families_are_large_enough_for_timing(family, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MODELS", tmp_path)
    folder = written(FAMILY_MODELS[family])
    assert folder.parent == tmp_path and not list(tmp_path.glob("*.part"))
    sizes = {"language": 0, "tower": 0}
    with safe_open(folder / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 (it is no mapping)
            size = 1
            for side in weights.get_slice(name).get_shape():
                size *= side
            language = "language_model" in name or name.startswith("lm_head")
            sizes["language" if language else "tower"] += size
    assert sizes["language"] == pytest.approx(20e6, rel=0.2)
    assert 0.03 < sizes["tower"] / sizes["language"] < 0.15


def test_other_names_are_left_alone(tmp_path):
    assert written("some/repository") == "some/repository"
    assert written(str(tmp_path)) == str(tmp_path)
