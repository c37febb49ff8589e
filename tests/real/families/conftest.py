"""An engine for each family in this process, and transformers' model of the same checkpoint.

The engine's chunks are smaller than an image. Where rows are pruned, transformers runs on the whole
prompt, and the tokens that the engine dropped are taken out before the language model.
"""

import os
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vllm_script.benchmarks.checkpoints import WRITERS
from vllm_script.families.mrope import MRopeFamily

ELSEWHERE = {"llava-next", "llava-1.5"}
"""Families whose relevance is CLIP's: tests/real/engine/ and tests/real/server/ are about them."""
FAMILIES = [name for name in WRITERS if name not in ELSEWHERE]
SAME_WEIGHTS = {"internvl-chat": "internvl", "internvl3.5-chat": "internvl3.5"}
"""Families without code in transformers, and the one there with the same weights and tokens."""
TILES_ARE_IMAGES = ("internvl", "glm", "gemma")
"""How the names of families begin to which transformers gives tiles of all items in one tensor, or
frames of videos as images."""
STATES = {"qwen3.5", "qwen3.5-moe"}
"""Families with states, which vLLM keeps at the ends of blocks. It puts a whole block of a prompt,
32 tokens, into a step or none, and what others generate in this step has to have room beside it."""
THOROUGH = "qwen2.5-vl"
"""`make test` runs all tests for this one; those for the others are slow, but for a smoke."""
SMOKE = "test_answers_are_those_of_transformers"
KEEP_RATIO = 0.4
ORDINARY = list(range(32, 256))
"""Tokens of every checkpoint that are not special."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours, in those of benchmarks/checkpoints that leave normalising to the model."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the tests that need an engine, but for a smoke and for one family, as `slow`."""
    here = Path(__file__).parent  # the hook is given the items of all folders
    for item in items:
        needs_engine = item.path.parent == here and "engine" in item.fixturenames
        if not needs_engine or item.originalname == SMOKE:
            continue
        if item.callspec.params["family"] != THOROUGH:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    """Name of a family: tests that ask for it, or for an engine, run for all."""
    return request.param


@pytest.fixture(scope="session")
def mrope_checkpoints(known_family, family_checkpoint):
    """Checkpoints of all families whose tokens have positions in three dimensions."""
    names = [name for name in FAMILIES if isinstance(known_family(name), MRopeFamily)]
    return [family_checkpoint(name) for name in names]


def picture(seed, width=168, height=168):
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def film(seed, frames=8, width=280, height=84):
    """Frames of noise, taken twice a second, and what vLLM's loader says of them."""
    shape = (frames, height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    about = dict(fps=2.0, duration=frames / 2, total_num_frames=frames)
    about |= dict(frames_indices=list(range(frames)), video_backend="opencv")
    return pixels, about | {"do_sample_frames": False}


@dataclass(frozen=True)
class Answer:
    token_ids: list[int]
    logprobs: list[float]
    likeliest: list[dict[int, float]]
    """Logprobs of the twenty likeliest tokens of every step."""
    cached: int
    """Tokens of the prompt that the prefix cache had."""


@dataclass
class Engine:
    name: str
    """Of the family."""
    llm: Any
    kept: list[torch.Tensor] = field(default_factory=list)
    """Of every selection the rows of the whole item that stay."""

    def picture(self, seed, width=168, height=168):
        """An image for a prompt."""
        self._take("image")
        return picture(seed, width, height)

    def film(self, seed, frames=8, width=280, height=84):
        """A video for a prompt."""
        self._take("video")
        return film(seed, frames, width, height)

    def _take(self, modality):
        """Skip the test unless items of this modality are pruned."""
        if modality not in self.family.modalities:
            pytest.skip(f"vLLM takes no {modality}s for this family; other tests run for it")

    @property
    def family(self):
        """What the plugin knows of the family: its `Family`."""
        return self.model.family

    @property
    def model(self):
        """The model in the engine."""
        return self.llm.llm_engine.model_executor.driver_worker.worker.model_runner.model

    def prompt(self, *turns, **script):
        """A prompt of users' turns and the answers between them: lists of texts, images, videos."""
        messages, data = [], {}
        for index, parts in enumerate(turns):
            content = []
            for part in parts:
                if isinstance(part, str):
                    content.append({"type": "text", "text": part})
                else:
                    modality = "video" if isinstance(part, tuple) else "image"
                    data.setdefault(modality, []).append(part)
                    content.append({"type": modality})
            if self.name.endswith("-chat"):  # whose chat template is for texts
                content = "".join(part.get("text", f"<{part['type']}>\n") for part in content)
            messages.append({"role": "assistant" if index % 2 else "user", "content": content})
        text = self.llm.get_tokenizer().apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        prompt = {"prompt": text, "multi_modal_data": data}
        return prompt | ({"mm_processor_kwargs": {"script": script}} if script else {})

    def ask(self, *prompts, max_tokens=3):
        """Answers, all of that length; selections are noted from here on."""
        from vllm import SamplingParams

        self.kept.clear()
        sampling = SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=True,
            logprobs=20,
            allowed_token_ids=ORDINARY,  # transformers takes an <image> in an answer for one
        )
        outputs = self.llm.generate(list(prompts), sampling, use_tqdm=False)
        return [Answer(*_completion(o.outputs[0]), o.num_cached_tokens) for o in outputs]

    def forget(self):
        """Empty the caches of vLLM."""
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()

    def rendered(self, prompt):
        """The prompt as vLLM sends it to the engine."""
        (rendered,) = self.llm.llm_engine.renderer.render_cmpl([prompt], skip_mm_cache=True)
        return rendered

    def placeholders(self, prompt):
        """Visual tokens of every item, by modality."""
        spans = self.rendered(prompt)["mm_placeholders"]
        return {modality: [s.get_num_embeds() for s in spans[modality]] for modality in spans}

    def preemptions(self):
        metrics = self.llm.get_metrics()
        return sum(m.value for m in metrics if m.name == "vllm:num_preemptions")

    def identifiers(self, prompt):
        """Identifiers of all items."""
        return [h for hashes in self.rendered(prompt)["mm_hashes"].values() for h in hashes]


def _completion(output):
    likeliest = [
        {token: logprob.logprob for token, logprob in step.items()} for step in output.logprobs
    ]
    steps = zip(output.token_ids, likeliest, strict=True)
    return list(output.token_ids), [step[token] for token, step in steps], likeliest


def started(family, folder, **settings):
    """vLLM's `LLM` of a checkpoint in this process, with little of everything.

    Args:
        settings: further ones of the LLM.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.engine import core

    if family in STATES:
        from .gated_delta_net import compute_in_float32

        compute_in_float32()
    limits = {"image": 4, "video": 2}
    batched = 36 if family in STATES else 32
    settings = {"max_num_batched_tokens": batched, "limit_mm_per_prompt": limits} | settings
    llm = LLM(
        str(folder),
        trust_remote_code=family.endswith("-chat"),  # for its configuration
        additional_config={"script": {"keep_ratio": KEEP_RATIO, "relevance": "embedding"}},
        enforce_eager=True,
        dtype="float32",
        block_size=32,
        max_model_len=1024,
        max_num_seqs=4,
        num_gpu_blocks_override=64,
        seed=0,
        **settings,
    )
    del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
    # An engine that is closed would take the process groups from the others in this process.
    core.cleanup_dist_env_and_memory = lambda: None
    # vLLM's search for kernels to replace fails at numba, which drafting by n-grams imports. It has
    # replaced them now, and the next engine in this process need not.
    CpuPlatform.register_triton_kernel_overrides = classmethod(lambda cls: None)
    return llm


@contextmanager
def running(family, folder, **settings):
    """An engine for the checkpoint of a family; `settings` are those of `started`."""
    from vllm_script.worker.model import PrunedModel

    engine = Engine(family, started(family, folder, disable_log_stats=False, **settings))
    embed_kept = PrunedModel.embed_kept  # which the self-test of the start-up does not call

    def spy(self, modality, fields, image, kept):
        engine.kept.append(torch.isin(image.layout.rows.to(kept.device), kept).nonzero().flatten())
        return embed_kept(self, modality, fields, image, kept)

    PrunedModel.embed_kept = spy
    yield engine
    PrunedModel.embed_kept = embed_kept


@pytest.fixture(scope="session")
def engine(family, family_checkpoint):
    from vllm.distributed import cleanup_dist_env_and_memory

    cleanup_dist_env_and_memory()  # of the family before, which may have had other groups
    with running(family, family_checkpoint(family)) as engine:
        yield engine


@pytest.fixture(scope="session")
def reference(engine, family_checkpoint):
    """reference(whole prompt, answer, kept of each item) -> logprobs of the answer."""
    return reference_of(engine.name, family_checkpoint)


def reference_of(family, family_checkpoint, masks=None):
    """What the fixture `reference` gives.

    Args:
        masks: from the language model's configuration, embeddings, and which tokens are visual, of
            what stays, to the attention masks of its layers; None: causal ones.
    """
    from transformers import AutoModelForImageTextToText

    folder = family_checkpoint(SAME_WEIGHTS.get(family, family))
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def logprobs(prompt, answer, kept):
        inputs, stays = _inputs(family, prompt, list(answer), kept)
        if family.startswith(TILES_ARE_IMAGES):
            inputs |= _as_images(inputs, prompt, model.config.image_token_id)

        def prune(language_model, args, kwargs):
            kwargs = _without(kwargs, stays)
            if masks is not None:
                is_visual = inputs["input_ids"][:, stays] == model.config.image_token_id
                config, embeds = language_model.config, kwargs["inputs_embeds"]
                kwargs["attention_mask"] = masks(config, embeds, is_visual)
            return args, kwargs

        language_model = model.model.language_model
        handle = language_model.register_forward_pre_hook(prune, with_kwargs=True)
        logits = model(**inputs).logits[0, -len(answer) - 1 : -1]
        handle.remove()
        return logits.log_softmax(-1)[range(len(answer)), answer].tolist()

    return logprobs


def _inputs(family, prompt, answer, kept):
    """Arguments of transformers' model for a prompt that is whole, and which tokens are to stay."""
    token_ids = torch.tensor([prompt["prompt_token_ids"] + answer])
    types, stays = torch.zeros_like(token_ids), torch.ones(token_ids.shape[1], dtype=torch.bool)
    inputs = {"input_ids": token_ids}
    names = [name for items in prompt["mm_kwargs"].values() for name in items[0]]
    if any(name.endswith("_grid_thw") for name in names):
        inputs["mm_token_type_ids"] = types
    kept = iter(kept)
    spans = [
        (span, modality) for modality, spans in prompt["mm_placeholders"].items() for span in spans
    ]
    for span, modality in sorted(spans, key=lambda item: item[0].offset):
        runs = span.extract_embeds_range()
        rows = torch.cat([torch.arange(first, last + 1) for first, last in runs])
        types[0, rows] = 1 if modality == "image" else 2
        own = next(kept, torch.arange(len(rows)))
        if family == "mistral3" and len(own) < len(rows):
            stays[rows[0] : rows[-1]] = False  # with what stands between the rows of patches
        stays[rows] = False
        stays[rows[own]] = True
    for items in prompt["mm_kwargs"].values():
        for name in items[0]:
            values = [item[name].data for item in items]
            if isinstance(values[0], torch.Tensor) and not name.startswith("script"):
                any_size = family == "mistral3" and name == "pixel_values"
                inputs |= _padded(values) if any_size else {name: _batched(values)}
    return inputs, stays


def _padded(images):
    """Images of a tower that takes any size, [3, height, width] each, as transformers has them."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = sizes.amax(0).tolist()
    padded = torch.zeros(len(images), 3, height, width)
    for image, into in zip(images, padded, strict=True):
        pixels = _normalised(image.reshape(1, -1)).view(image.shape)
        into[:, : image.shape[1], : image.shape[2]] = pixels
    return {"pixel_values": padded, "image_sizes": sizes}


def _as_images(inputs, prompt, image_token_id):
    """What is different where tiles are one tensor with all others, and frames images."""
    items = [
        (span, {name: element.data for name, element in item.items()})
        for modality, spans in prompt["mm_placeholders"].items()
        for span, item in zip(spans, prompt["mm_kwargs"][modality], strict=True)
    ]
    token_ids, types, grids = inputs["input_ids"], inputs.get("mm_token_type_ids"), []
    tiles = defaultdict(list)
    for span, item in sorted(items, key=lambda pair: pair[0].offset):
        for first, last in span.extract_embeds_range():
            token_ids[0, first : last + 1] = image_token_id
        placed = any("position" in name for name in item)  # Gemma 4's patches are, tile by tile
        for name, value in item.items():
            if name.startswith("pixel"):
                value = value[None] if placed and value.dim() == 2 else value
                tiles["image_position_ids" if "position" in name else "pixel_values"].append(value)
            elif name.endswith("_grid_thw"):
                frames, *size = value.tolist()
                grids += [[1, *size]] * frames
    others = [name for name in inputs if name.startswith(("pixel_", "video"))]
    whole = dict.fromkeys(others) | {name: torch.cat(values) for name, values in tiles.items()}
    whole["pixel_values"] = _normalised(whole["pixel_values"])
    if grids:
        whole |= {"image_grid_thw": torch.tensor(grids), "mm_token_type_ids": types.clamp(max=1)}
    return whole


def _batched(values):
    """One tensor: of patches of all items, of tiles with empty ones behind, or of single values."""
    if values[0].dim() == 2:
        return _normalised(torch.cat(values))
    if values[0].dim() < 2:
        return torch.stack(values)
    return torch.nn.utils.rnn.pad_sequence(values, batch_first=True)


def _normalised(patches):
    """Patches [patches, 3 * pixels] as transformers has them; vLLM's model normalises bytes."""
    if patches.dtype != torch.uint8:
        return patches
    colours = patches.view(len(patches), 3, -1) / 255
    mean, std = (torch.tensor(values).view(1, 3, 1) for values in (MEAN, STD))
    return ((colours - mean) / std).flatten(1)


def _without(kwargs, stays):
    """Arguments of the language model without the tokens that do not stay."""
    kwargs = dict(kwargs)
    masks = kwargs.get("visual_pos_masks")
    if isinstance(kwargs.get("attention_mask"), dict):
        kwargs["attention_mask"] = None  # made anew of what stays: causal, as vLLM's on a CPU
    for name in ("inputs_embeds", "attention_mask", "per_layer_inputs"):
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name][:, stays]
    if kwargs.get("position_ids") is not None:
        one_dimensional = kwargs["position_ids"].dim() == 2  # and counted anew of what stays
        kwargs["position_ids"] = None if one_dimensional else kwargs["position_ids"][..., stays]
    if masks is not None:
        rows = stays[masks[0]]
        kwargs["visual_pos_masks"] = masks[:, stays]
        kwargs["deepstack_visual_embeds"] = [x[rows] for x in kwargs["deepstack_visual_embeds"]]
    return kwargs
