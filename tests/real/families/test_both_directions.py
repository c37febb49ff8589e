"""Attention in both directions inside an image, which vLLM has on GPUs and transformers everywhere.

vLLM's attention on a CPU is causal. Here it is replaced by one in plain PyTorch that reads what
vLLM tells every attention backend: the runs of each request in which rows see each other. Items are
prefilled in one step each, as vLLM makes sure of on a GPU.
"""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl, CPUAttentionMetadataBuilder

from .conftest import running
from .reference import reference_of

pytestmark = pytest.mark.slow

QUESTION = "What is shown here?"
SCAN = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 64}
SETTINGS = {
    "gemma3": {"max_num_batched_tokens": 256, "mm_processor_kwargs": SCAN},
    "gemma4": {"max_num_batched_tokens": 96},
}
"""Of the engine: a step has room for an item and not for the prompt."""
SIZES = (300, 100), (168, 168), (100, 250)
"""Width and height of pictures: three crops side by side, none, three below each other."""


@pytest.fixture(scope="module")
def attention():
    """Replace vLLM's attention as long as the module's tests run."""
    build, keys_and_values = CPUAttentionMetadataBuilder.build, {}

    def build_with_runs(self, common_prefix_len, common, fast_build=False):
        metadata = build(self, common_prefix_len, common, fast_build)
        # The name that GPU backends have, for Gemma 4 takes it from layers without a window.
        metadata.mm_prefix_range = common.mm_req_doc_ranges
        return metadata

    def forward(self, layer, query, key, value, kv_cache, metadata, output, **scales):
        if metadata is None:
            return output
        blocks, _, block, _ = kv_cache.shape
        if layer not in keys_and_values:
            keys_and_values[layer] = torch.zeros(blocks * block, 2, *key.shape[1:])
        cache, count = keys_and_values[layer], metadata.num_actual_tokens
        cache[metadata.slot_mapping[:count]] = torch.stack([key, value], 1)[:count]
        ends = metadata.query_start_loc.tolist()
        for request, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
            seen = torch.arange(int(metadata.seq_lens[request]))
            slots = metadata.block_table[request][seen // block] * block + seen % block
            own = seen[len(seen) - (end - start) :, None]
            mask = seen <= own
            if self.sliding_window > 0:
                mask &= seen > own - self.sliding_window
            for first, last in (metadata.mm_prefix_range or {}).get(request, ()):
                mask |= (first <= seen) & (seen <= last) & (first <= own) & (own <= last)
            keys, values = cache[slots].permute(1, 2, 0, 3)
            result = scaled_dot_product_attention(
                query[start:end].transpose(0, 1),
                keys,
                values,
                attn_mask=mask,
                scale=self.scale,
                enable_gqa=True,
            )
            output[start:end] = result.transpose(0, 1).reshape(output[start:end].shape)
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CPUAttentionMetadataBuilder, "build", build_with_runs)
        patch.setattr(CPUAttentionBackendImpl, "forward", forward)
        yield


@pytest.fixture(scope="module", params=SETTINGS)
def engine(attention, request, family_checkpoint):
    with running(
        request.param,
        family_checkpoint(request.param),
        limit_mm_per_prompt={"image": 3, "video": 0},
        **SETTINGS[request.param],
        disable_chunked_mm_input=True,
    ) as engine:
        yield engine


def both_directions(config, embeds, is_visual):
    """Transformers' masks of a prompt's tokens [1, tokens]."""
    from transformers.models.gemma3 import modeling_gemma3
    from transformers.models.gemma4 import modeling_gemma4

    modeling = {"gemma3_text": modeling_gemma3, "gemma4_text": modeling_gemma4}[config.model_type]
    return modeling.create_masks_for_vision_model(
        config,
        embeds,
        None,
        None,
        torch.arange(embeds.shape[1])[None],
        modeling.get_block_sequence_ids_for_mask(is_visual.long(), embeds.device),
    )


@pytest.mark.parametrize("keep_ratio", [0.1, 0.4, 1.0])
def test_answers_are_those_of_transformers(engine, family_checkpoint, keep_ratio):
    """Crops and tile see their own rows alone; a prefix from the cache answers alike."""
    images = [engine.picture(seed, *size) for seed, size in enumerate(SIZES)]
    parts = [part for image in images for part in (image, "and")]
    plain = engine.prompt([*parts, QUESTION])
    prompt, whole = (
        plain | {"mm_processor_kwargs": {"script": {"keep_ratio": ratio}}}
        for ratio in (keep_ratio, 1.0)
    )
    engine.forget()
    (answer,) = engine.ask(prompt)
    kept, rendered = list(engine.kept), engine.rendered(whole)
    assert len(kept) == (0 if keep_ratio == 1.0 else len(SIZES))
    expected = {
        masks: reference_of(engine.name, family_checkpoint, masks)(rendered, answer.token_ids, kept)
        for masks in (both_directions, None)
    }
    assert answer.logprobs == pytest.approx(expected[both_directions], abs=1e-3)
    if keep_ratio > 0.1:  # of a few rows it hardly matters in Gemma 4's one layer with a window
        assert answer.logprobs != pytest.approx(expected[None], abs=1e-3), "causal attention"
    (again,) = engine.ask(prompt)
    assert again.cached > 0
    assert again.logprobs == pytest.approx(answer.logprobs, abs=1e-3)
