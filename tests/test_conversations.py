"""Random conversations through front end and worker, with every cache and without any.

Chats are edited as people and agents edit them, and asked again after each edit. Prompts and the
rows that the language model would read must be the same to the bit; so must whatever lies in a
prefix cache under the same name.
"""

import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.multimodal.cache import engine_receiver_cache_from_config
from vllm.multimodal.inputs import MultiModalFeatureSpec
from vllm.multimodal.utils import argsort_mm_positions, group_and_batch_mm_kwargs
from vllm.renderers import renderer_from_config
from vllm.renderers.params import ChatParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.request import Request

from vllm_script.frontend import items
from vllm_script.plan import image_key
from vllm_script.worker.feature_cache import PAGE_ROWS, FeatureCache

from .chats import EDITS, Chat, num_pictures
from .worker.stand_in import WIDTH, Cpu, hf_config, model_of

BLOCK = 16
"""Tokens of a block of the prefix cache."""
FEW_GB = 0.002
"""Size of vLLM's cache of processed items and of ours: of a dozen pictures they hold five."""
FEATURE_PAGES, ENCODED_ITEMS = 8, 6
"""What the worker's cache of features and vLLM's of kept rows hold: fewer pictures still."""


def _tiny(folder):
    """The checkpoint's configuration, with a tower and a projector as wide as the stand-in's."""
    real = AutoConfig.from_pretrained(folder)
    real.vision_config.hidden_size = WIDTH
    return hf_config(
        "clip",
        vision_config=real.vision_config,
        image_grid_pinpoints=real.image_grid_pinpoints,
        vision_feature_layer=real.vision_feature_layer,
        vocab_size=real.text_config.vocab_size,
    )


class Arm:
    """From messages to rows, as the API process and the engine process go, without an engine.

    Args:
        folder: a LLaVA-NeXT with its CLIP.
        caches: whether there are any.
    """

    def __init__(self, folder, caches):
        size = FEW_GB if caches else 0
        config = EngineArgs(
            str(folder),
            dtype="float32",
            additional_config={"script": {"keep_ratio": 0.11, "cache_gb": size}},
            mm_processor_cache_gb=size,
            enable_prefix_caching=caches,
        ).create_engine_config()
        self.renderer = renderer_from_config(config)
        self._received = engine_receiver_cache_from_config(config)
        self._encoded = OrderedDict() if caches else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the CLIPs of both arms are to be the same
            self.model = model_of("LlavaNextForConditionalGeneration", _tiny(folder), Cpu())
        pages_gb = FEATURE_PAGES * PAGE_ROWS * 2 * WIDTH * 4 / 2**30
        widths = WIDTH, WIDTH, torch.float32, "cpu"
        self.model.feature_cache = FeatureCache(pages_gb if caches else 0, *widths)
        self.model.embed_whole = self._embed_whole

    def forget(self):
        """Empty every cache."""
        self.renderer.clear_mm_cache()
        self.model.forget_images()
        if self._received is not None:
            self._received.clear_cache()
            self._encoded.clear()

    def ask(self, messages, script):
        """The prompt's tokens, its items as the scheduler has them, and the rows of each."""
        params = ChatParams(chat_template_kwargs={"script": script})
        _, (prompt,) = self.renderer.render_chat([messages], params)
        if prompt["type"] != "multimodal":
            return prompt["prompt_token_ids"], [], []
        features = [
            MultiModalFeatureSpec(
                data=prompt["mm_kwargs"][modality][index],
                modality=modality,
                identifier=prompt["mm_hashes"][modality][index],
                mm_position=prompt["mm_placeholders"][modality][index],
                mm_hash=prompt["mm_hashes"][modality][index],
            )
            for modality, index in argsort_mm_positions(prompt["mm_placeholders"])
        ]
        if self._received is not None:
            features = self._received.get_and_update_features(features)
        return prompt["prompt_token_ids"], features, self._rows(features)

    def _rows(self, features):
        """Rows of each item, of which vLLM's encoder cache has some."""
        if self._encoded is None:
            return self._embedded(features)
        missing = {f.identifier: f for f in features if f.identifier not in self._encoded}
        known = dict(self._encoded)
        known |= zip(missing, self._embedded(list(missing.values())), strict=True)
        for feature in features:
            self._encoded[feature.identifier] = known[feature.identifier]
            self._encoded.move_to_end(feature.identifier)
        while len(self._encoded) > ENCODED_ITEMS:
            self._encoded.popitem(last=False)
        return [known[feature.identifier] for feature in features]

    def _embed_whole(self, modality, fields):
        """What stock vLLM would return of items that are left whole, newlines among the patches."""
        model, rows = self.model, []
        for own in model.split(fields, len(fields["image_sizes"])):
            image = model.encode(modality, own)
            rows.append(image.features[image.layout.rows])
        return rows

    @torch.no_grad()
    def _embedded(self, features):
        sent = [(feature.modality, feature.data) for feature in features]
        batches = group_and_batch_mm_kwargs(sent)
        return [rows for _, _, batch in batches for rows in self.model.embed_multimodal(**batch)]


@pytest.fixture(scope="module")
def both(checkpoint):
    """An arm with caches and one without."""
    return [Arm(checkpoint("llava-next"), caches) for caches in (True, False)]


@pytest.fixture
def arms(both):
    """The two arms, of which nothing remembers an earlier test."""
    for arm in both:
        arm.forget()
    return both


def picture(seed):
    """A picture of noise, of one of three shapes."""
    size = [(84, 84), (100, 60), (84, 168)][seed % 3]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return {"type": "image_pil", "image_pil": Image.fromarray(pixels)}


PICTURES = [picture(seed) for seed in range(12)]
"""Few, so that chats share and repeat them."""


class PrefixCache:
    """What is under the name of each block: vLLM's names, and what a language model would read."""

    def __init__(self):
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        self._read = {}

    def check(self, tokens, features, rows):
        """Raise AssertionError where a name already stands for something else."""
        request = Request(
            request_id="chat",
            prompt_token_ids=list(tokens),
            sampling_params=SamplingParams(max_tokens=1),
            pooling_params=None,
            mm_features=features,
            block_hasher=self._hasher,
        )
        embeddings = torch.tensor(tokens)[:, None].repeat(1, WIDTH).float()
        for feature, own in zip(features, rows, strict=True):
            span = feature.mm_position
            is_row = span.is_embed if span.is_embed is not None else slice(None)
            embeddings[span.offset : span.offset + span.length][is_row] = own
        number = len(tokens) // BLOCK
        blocks = embeddings[: number * BLOCK].reshape(number, BLOCK, WIDTH)
        so_far = b""
        for name, block in zip(request.block_hashes, blocks.numpy(), strict=True):
            so_far = sha256((so_far, block.tobytes()))
            assert self._read.setdefault(name, so_far) == so_far, "a block has two contents"


def converse(arms, seeds):
    """Ask chats of these seeds, edit each three times, ask it every time, and compare the last."""
    cached, uncached = arms
    prefixes = PrefixCache()
    for seed in seeds:
        rng = random.Random(seed)
        chat = Chat(rng, PICTURES)
        prefixes.check(*cached.ask(chat.messages, chat.script))
        for edit in rng.choices(EDITS, k=3):
            edit(chat)
            tokens, features, rows = cached.ask(chat.messages, chat.script)
            prefixes.check(tokens, features, rows)
        true_tokens, _, true_rows = uncached.ask(chat.messages, chat.script)
        assert tokens == true_tokens, f"chat {seed}"
        assert len(rows) == len(true_rows) == num_pictures(chat.messages), f"chat {seed}"
        for feature, own, true in zip(features, rows, true_rows, strict=True):
            assert len(own) == feature.mm_position.get_num_embeds(), f"chat {seed}"
            assert torch.equal(own, true), f"chat {seed}"


@pytest.mark.parametrize("number", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_conversations(arms, number):
    converse(arms, range(number))
    cached, uncached = (
        (arm.renderer.get_mm_processor().pixel_cache, arm.model.feature_cache) for arm in arms
    )
    # Every cache is asked for what it has, and for what it has lost again.
    assert all(cache.hits > 0 and cache.misses > 2 * len(PICTURES) for cache in cached)
    assert not any(cache.hits for cache in uncached)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [  # that say nothing of the plan, and nothing of the picture but its size
        ("identifier", lambda stock_hash, plan: stock_hash),
        ("image_key", lambda stock_hash, *size: image_key("any", *size)),
    ],
)
def test_a_wrong_name_is_noticed(arms, name, wrong, monkeypatch):
    monkeypatch.setattr(items, name, wrong)
    with pytest.raises(AssertionError):
        converse(arms, range(20))
