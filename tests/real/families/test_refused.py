"""Ways of running in which pruning would go wrong end the start-up."""

import pytest
from vllm.engine.arg_utils import EngineArgs


def refuse(folder, changes, words):
    settings = {"additional_config": {"script": {}}, "trust_remote_code": True} | changes
    with pytest.raises(ValueError, match=words):
        EngineArgs(str(folder), **settings).create_engine_config()


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"speculative_config": {"method": "eagle", "model": "x", "num_speculative_tokens": 2}},
            "speculative decoding by eagle",
        ),
        ({"speculative_config": {"model": "x", "num_speculative_tokens": 2}}, "decoding by x"),
        ({"spec_method": "ngram_gpu", "spec_tokens": 2}, "decoding by ngram_gpu"),
        ({"speculative_config": {"method": "mtp", "num_speculative_tokens": 1}}, "decoding by mtp"),
        ({"spec_method": "eagle3", "spec_model": "x", "spec_tokens": 2}, "decoding by eagle3"),
    ],
)
def test_what_loses_positions(mrope_checkpoints, changes, words):
    for folder in mrope_checkpoints:
        refuse(folder, changes, words)
    assert mrope_checkpoints


@pytest.mark.parametrize(
    "options",
    [{"method": "ngram"}, {"model": "[ngram]"}, {"method": "ngram", "prompt_lookup_max": 5}],
)
def test_drafts_from_text_are_not_refused(mrope_checkpoints, options):
    for folder in mrope_checkpoints:
        options = options | {"num_speculative_tokens": 2}
        settings = {"additional_config": {"script": {}}, "speculative_config": options}
        config = EngineArgs(str(folder), **settings).create_engine_config()
        assert config.speculative_config.method == "ngram"


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"video_pruning_rate": 0.5}, "--video-pruning-rate"),
        (
            {"ec_transfer_config": {"ec_connector": "ECCPUConnector", "ec_role": "ec_both"}},
            "--ec-transfer-config",
        ),
        ({"additional_config": {"script": {"relevance": "clip"}}}, "relevance clip needs"),
    ],
)
def test_what_no_family_allows(family_checkpoint, family, changes, words):
    refuse(family_checkpoint(family), changes, words)


@pytest.mark.parametrize(
    "name",
    [
        *("llava-onevision", "llava-next-video", "mistral3", "gemma3", "gemma4", "kimi-vl"),
        "granite-vision",  # whose tower is read at several layers
    ],
)
def test_a_tower_that_cannot_be_thinned(family_checkpoint, name):
    thin = {"additional_config": {"script": {"tower_keep": 0.5}}}
    refuse(family_checkpoint(name), thin, "--script-tower-keep .*; leave it out")
