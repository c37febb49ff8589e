"""What sets Qwen3.5 apart from Qwen3-VL: how vLLM configures it, and how wide its rows are."""

import json
import shutil

import pytest
from vllm.engine.arg_utils import EngineArgs

from vllm_script.families import family_of

NAMES = ("qwen3.5", "qwen3.5-moe")


@pytest.fixture(params=NAMES)
def folder(request, checkpoint):
    return checkpoint(request.param)


def configured(folder, **settings):
    """vLLM's configuration of the pruned model, as the engine gets it."""
    args = EngineArgs(str(folder), additional_config={"script": {}}, **settings)
    return args.create_engine_config()


def changed(folder, to, **vision):
    """A copy of a checkpoint's configuration, without weights and with another tower."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((to / "config.json").read_text())
    config["vision_config"] |= vision
    (to / "config.json").write_text(json.dumps(config))
    return to


def test_states_are_of_the_type_that_the_checkpoint_asks_for(folder):
    """vLLM looks that up by the name of the stock architecture."""
    assert configured(folder, dtype="bfloat16").cache_config.mamba_ssm_cache_dtype == "float32"


def test_states_are_in_the_prefix_cache_by_default(folder):
    cache = configured(folder).cache_config
    assert cache.enable_prefix_caching
    assert cache.mamba_cache_mode == "align"


def test_rows_enter_the_first_layer_alone(folder):
    config = configured(folder).model_config.hf_config
    family = family_of(config.architectures[0])
    assert family.feature_width(config) == config.text_config.hidden_size


def test_a_tower_with_deepstack_is_refused(folder, tmp_path):
    other = changed(folder, tmp_path / "other", deepstack_visual_indexes=[0])
    with pytest.raises(ValueError, match="deepstack_visual_indexes") as error:
        configured(other)
    assert "\n" not in str(error.value)
    published = changed(folder, tmp_path / "published", deepstack_visual_indexes=[])
    assert configured(published).model_config.hf_config.vision_config.out_hidden_size == 64
