"""One engine in this process, so that tests can watch what the worker selects.

Its encoder cache holds two images, its chunks are smaller than an image, and its KV cache is so
small that requests are preempted.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

CHUNK = 64


def image(seed):
    """A 168x168 picture of noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (168, 168, 3), dtype=np.uint8))


def about(seed, question="What is shown here?"):
    """A conversation of one turn about the picture of that seed."""
    part = {"type": "image_pil", "image_pil": image(seed)}
    return [{"role": "user", "content": [part, {"type": "text", "text": question}]}]


@dataclass
class Engine:
    llm: Any
    selections: list[tuple[int, ...]] = field(default_factory=list)
    """Kept rows of every selection among the 180 patches of a 168x168 image."""

    image = staticmethod(image)
    about = staticmethod(about)

    def chat(self, *conversations, max_tokens=4, **kwargs):
        """Logprobs of the answers, and the selections made for them."""
        return self.run(self.llm.chat, list(conversations), max_tokens, **kwargs)

    def generate(self, *prompts, max_tokens=4):
        """The same for raw prompts."""
        return self.run(self.llm.generate, list(prompts), max_tokens)

    def run(self, method, prompts, max_tokens, **kwargs):
        from vllm import SamplingParams

        self.selections.clear()
        sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, logprobs=0)
        outputs = [o.outputs[0] for o in method(prompts, sampling, use_tqdm=False, **kwargs)]
        answers = [
            [step[token].logprob for token, step in zip(o.token_ids, o.logprobs, strict=True)]
            for o in outputs
        ]
        return answers, list(self.selections)

    def forget(self):
        """Empty the prefix cache; fill the encoder cache, which holds two images, with others."""
        self.chat(about(98), about(99))
        self.llm.reset_prefix_cache()

    def preemptions(self):
        metrics = self.llm.get_metrics()
        return sum(m.value for m in metrics if m.name == "vllm:num_preemptions")


@pytest.fixture(scope="session")
def engine(checkpoint):
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    from vllm_script.worker import selector

    llm = LLM(
        str(checkpoint("llava-next")),
        additional_config={"script": {"keep_ratio": 0.4}},
        enforce_eager=True,
        dtype="float32",
        block_size=32,
        max_model_len=512,
        max_num_batched_tokens=CHUNK,
        max_num_seqs=8,
        num_gpu_blocks_override=24,
        seed=0,
        disable_log_stats=False,
    )
    del os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"]
    engine = Engine(llm)
    run_modes = selector.run_modes

    def spy(tasks):
        selections = run_modes(tasks)
        for task, kept in zip(tasks, selections, strict=True):
            if task.num_tokens == 180:
                engine.selections.append(tuple(kept.tolist()))
        return selections

    selector.run_modes = spy
    yield engine
    selector.run_modes = run_modes
