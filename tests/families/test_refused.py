"""Ways of running in which positions of pruned tokens would be lost end the start-up."""

import pytest
from vllm.engine.arg_utils import EngineArgs


@pytest.mark.parametrize("family", ["qwen2-vl", "qwen2.5-vl", "qwen3-vl"])
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"pipeline_parallel_size": 2}, "--pipeline-parallel-size"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}},
            "--speculative-config",
        ),
        ({"enable_prompt_embeds": True}, "--enable-prompt-embeds"),
        ({"additional_config": {"script": {"explain": True}}}, "--script-explain"),
        ({"video_pruning_rate": 0.5}, "--video-pruning-rate"),
        ({"ec_transfer_config": {"ec_role": "ec_both"}}, "--ec-transfer-config"),
        ({"additional_config": {"script": {"relevance": "clip"}}}, "relevance clip needs"),
    ],
)
def test_refused_at_start_up(family_checkpoint, family, changes, words):
    settings = {"additional_config": {"script": {}}} | changes
    args = EngineArgs(str(family_checkpoint(family)), **settings)
    with pytest.raises(ValueError, match=words):
        args.create_engine_config()
