"""An engine for each family in this process, and transformers' model of the same checkpoint.

The engine's chunks are smaller than an image. reference.py is about transformers.
"""

import os
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

from ... import mistral
from .reference import reference_of

ELSEWHERE = {"llava-next", "llava-1.5"}
"""Families whose relevance is CLIP's: tests/real/engine/ and tests/real/server/ are about them."""
FAMILIES = [name for name in WRITERS if name not in ELSEWHERE]
STATES = {"qwen3.5", "qwen3.5-moe"}
"""Families with states, which vLLM keeps at the ends of blocks. It puts a whole block of a prompt,
32 tokens, into a step or none, and what others generate in this step has to have room beside it."""
GROUPS = {"llama4": 2}
"""Families whose layers are of several kinds, each of which takes blocks of its own."""
REMOTE_CODE = {"internvl-chat", "internvl3.5-chat", "kimi-vl"}
"""Families whose checkpoints bring code: of their configuration, or of their processor."""
THOROUGH = "qwen2.5-vl"
"""`make test` runs all tests for this one; those for the others are slow, but for a smoke."""
SMOKE = "test_answers_are_those_of_transformers"
KEEP_RATIO = 0.4
ORDINARY = list(range(32, 256))
"""Tokens of every checkpoint that are not special."""


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
        tokenizer = self.llm.get_tokenizer()
        if self.name in mistral.FAMILIES:
            prompt = {"prompt_token_ids": mistral.token_ids(tokenizer, *turns)}
        else:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            prompt = {"prompt": text}
        prompt |= {"multi_modal_data": data}
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
        trust_remote_code=family in REMOTE_CODE,
        additional_config={"script": {"keep_ratio": KEEP_RATIO, "relevance": "embedding"}},
        enforce_eager=True,
        dtype="float32",
        block_size=32,
        max_model_len=1024,
        max_num_seqs=4,
        num_gpu_blocks_override=64 * GROUPS.get(family, 1),
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
