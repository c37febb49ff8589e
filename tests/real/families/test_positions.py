"""What the M-RoPE models tell vLLM of positions, step by step, without an engine.

Both model runners are played: V1 hands over the prompt as a list, V2 through its own pruner. Truth
is transformers' positions of the whole prompt, without those of the dropped tokens.
"""

import random
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText
from vllm.multimodal.inputs import (
    MultiModalFeatureSpec,
    MultiModalFieldConfig,
    MultiModalFieldElem,
    MultiModalKwargsItem,
    PlaceholderRange,
)

from vllm_script.budget import even_shares
from vllm_script.config import ScriptConfig
from vllm_script.families import model_class, pruned_name
from vllm_script.worker.encoded_image import EncodedImage

TEXT = 100
"""A token that is not special in any checkpoint."""


class Prompt:
    """Text, images and videos, some pruned: what vLLM has of it, and its true positions."""

    def __init__(self, model, reference, seed):
        self.rng, self.model, self.config = random.Random(seed), model, model.config
        self.generator = torch.Generator().manual_seed(seed)
        self.tokens, self.features, self.rows = [], [], []
        self.whole, self.types, self.stays = [], [], []
        self.grids = {"image": [], "video": []}
        self.seconds = []
        self._text(self.rng.randint(1, 20))
        for _ in range(self.rng.randint(1, 3)):
            self._item(self.rng.choice(["image", "video"]))
            self._text(self.rng.randint(1, 9))
        arguments = {
            f"{modality}_grid_thw": torch.tensor(grids)
            for modality, grids in self.grids.items()
            if grids
        }
        if self.seconds and self.config.model_type == "qwen2_5_vl":
            arguments["second_per_grid_ts"] = torch.tensor(self.seconds)
        positions, delta = reference.get_rope_index(
            torch.tensor([self.whole]), mm_token_type_ids=torch.tensor([self.types]), **arguments
        )
        self.truth = positions[-3:, 0, torch.tensor(self.stays)]
        self.delta = int(delta) + len(self.whole) - len(self.tokens)

    @property
    def width(self):
        """Values of a text token's embedding."""
        return self.config.get_text_config().hidden_size

    @property
    def row_width(self):
        """Values of a row, before its channels."""
        return self.model.family.feature_width(self.config)

    def _text(self, length):
        self._add([TEXT] * length, [TEXT] * length, [0] * length, [True] * length)

    def _add(self, tokens, whole, types, stays):
        self.tokens += tokens
        self.whole += whole
        self.types += types
        self.stays += stays

    def _item(self, modality):
        config, rng = self.config, self.rng
        frames = 1 if modality == "image" else rng.randint(1, 3)
        height, width = rng.randint(6, 12), rng.randint(6, 12)  # longer than a video takes
        grid = [frames, 2 * height, 2 * width]
        self.grids[modality].append(grid)
        fields = {f"{modality}_grid_thw": torch.tensor(grid)}
        if modality == "video" and config.model_type == "qwen2_5_vl":
            self.seconds.append(rng.choice([0.5, 1.0]))
            fields["second_per_grid_ts"] = torch.tensor(self.seconds[-1])
        num_runs = frames if config.model_type.startswith(("qwen3", "glm4v")) else 1
        total, in_run = frames * height * width, frames * height * width // num_runs
        count = rng.choice([total, rng.randint(num_runs * 3, total)])
        kept = []
        for run, share in enumerate(even_shares(count, num_runs)):
            kept += [run * in_run + i for i in sorted(rng.sample(range(in_run), share))]
        offset, mask = len(self.tokens), []
        as_image = config.model_type.startswith("glm4v") or modality == "image"
        token = config.image_token_id if as_image else config.video_token_id
        kind = 1 if modality == "image" else 2
        self._text(1)
        offset += 1
        for run in range(num_runs):
            own = [place for place in kept if run * in_run <= place < (run + 1) * in_run]
            stays = [run * in_run + i in own for i in range(in_run)]
            if num_runs > 1 and run:  # between frames
                self._text(2)
                mask += [False, False]
            self._add([token] * len(own), [token] * in_run, [kind] * in_run, stays)
            mask += [True] * len(own)
        self._text(1)
        span = PlaceholderRange(offset, len(mask), torch.tensor(mask) if num_runs > 1 else None)
        self.features.append(_feature(modality, fields, span))
        self.rows.append(self._rows(modality, fields, total, torch.tensor(kept)))

    def _rows(self, modality, fields, total, kept):
        """Rows of an item as the model returns them, from random features in bfloat16."""
        batch = {name: value[None] for name, value in fields.items()}
        features = torch.randn(total, self.row_width, generator=self.generator).bfloat16()
        layout = self.model.family.item_layout(self.model.config, modality, batch)
        image = EncodedImage.without_states(features, layout)
        if len(kept) < total:
            return self.model.embed_kept(modality, batch, image, kept)
        whole = torch.full((total, 8), 255.0).bfloat16()
        return torch.cat([features, whole], 1)

    def rows_between(self, start, end):
        """Rows of the placeholders between two places of the prompt, item by item."""
        parts = []
        for feature, rows in zip(self.features, self.rows, strict=True):
            span = feature.mm_position
            first, last = max(start - span.offset, 0), min(end - span.offset, span.length)
            if first < last:
                begin, stop = span.get_embeds_indices_in_range(first, last)
                if begin < stop:
                    parts.append(rows[begin:stop])
        return parts

    def steps(self):
        """(start, end) of random steps behind a random prefix-cache hit."""
        length = len(self.tokens)
        hit = self.rng.choice([0, self.rng.randrange(length)])
        cuts = sorted({hit, *(self.rng.randrange(hit, length) for _ in range(4))})
        return list(zip(cuts, [*cuts[1:], length], strict=True))


def _feature(modality, fields, span):
    field = MultiModalFieldConfig.batched(modality, keep_on_cpu=True).field
    data = {name: MultiModalFieldElem(value, field) for name, value in fields.items()}
    return MultiModalFeatureSpec(MultiModalKwargsItem(data), modality, "x", span)


@pytest.fixture(scope="module")
def models(mrope_checkpoints):
    """Of every family our model without weights, and transformers'."""
    return [*map(both_models, mrope_checkpoints)]


def both_models(folder):
    config = AutoConfig.from_pretrained(folder)
    name = pruned_name(config.architectures[0])
    ours = object.__new__(model_class(name))
    ours.__dict__ |= {"config": config, "_script_config": ScriptConfig()}
    with torch.device("meta"):
        reference = AutoModelForImageTextToText.from_config(config)
    return ours, reference.model


@pytest.mark.parametrize("seed", range(12))
def test_runner_v1(models, seed):
    for model, reference in models:
        play_v1(model, Prompt(model, reference, seed))
    assert models


@pytest.mark.parametrize("seed", range(12))
def test_runner_v2(models, seed):
    for model, reference in models:
        play_v2(model, Prompt(model, reference, seed))
    assert models


def play_v1(model, prompt):
    """A prompt in its steps, of which the runner hands over the whole prompt as a list."""
    positions, delta = model.get_mrope_input_positions(prompt.tokens, prompt.features)
    assert delta == prompt.delta
    steps = prompt.steps()
    sent = torch.randn(2, prompt.width)  # embeddings of a client's
    for start, end in steps:
        rows = prompt.rows_between(start, end)
        (own, *stripped), positions, delta = model.recompute_mrope_positions(
            prompt.tokens, [sent, *rows], positions, start
        )
        assert delta == prompt.delta
        assert torch.equal(own[:, : prompt.width], sent) and not own[:, prompt.width :].any()
        assert all(
            torch.equal(a, b[:, : prompt.row_width]) for a, b in zip(stripped, rows, strict=True)
        )
    hit = steps[0][0]
    assert torch.equal(positions[:, hit:], prompt.truth[:, hit:])


def play_v2(model, prompt):
    """vLLM's own pruner, with its state of one request on the CPU."""
    from vllm.v1.worker.gpu.model_states.mm_pruning import MultiModalPruner

    length = len(prompt.tokens)
    positions, delta = model.get_mrope_input_positions(prompt.tokens, prompt.features)
    state = {"positions": positions.int(), "delta": delta}

    def update(index, positions, delta):
        state.update(positions=positions.int(), delta=delta)

    rope = SimpleNamespace(
        read_prefill_positions=lambda index, length: state["positions"],
        update_prefill_positions=update,
    )
    cache = SimpleNamespace(mm_features={"a": prompt.features})
    token_ids = torch.tensor([prompt.tokens], dtype=torch.int32)
    requests = SimpleNamespace(all_token_ids=SimpleNamespace(gpu=token_ids))
    pruner = MultiModalPruner(model, rope, cache, prompt.row_width)
    steps = prompt.steps()
    for start, end in steps:
        batch = SimpleNamespace(
            req_ids=["a"],
            idx_mapping_np=torch.tensor([0]),
            prefill_len_np=torch.tensor([length]),
            num_computed_prefill_tokens_np=torch.tensor([start]),
            num_scheduled_tokens=torch.tensor([end - start]),
        )
        rows = prompt.rows_between(start, end)
        if rows:
            stripped = pruner.recompute(rows, batch, requests)
            assert all(x.shape[1] == prompt.row_width for x in stripped)
    hit = steps[0][0]
    assert torch.equal(state["positions"][:, hit:].long(), prompt.truth[:, hit:])
    assert state["delta"] == prompt.delta
