"""The attention of a GPU run, SDPA with a boolean mask, gives what eager attention gives."""

import numpy as np
import torch

from vllm_script.benchmarks.demo_model import forward
from vllm_script.benchmarks.demo_model.batches import pictures_of, texts_of
from vllm_script.benchmarks.demo_model.initialise import initialise
from vllm_script.benchmarks.demo_model.model import Demo
from vllm_script.benchmarks.demo_model.prompts import Keep, prompts_of
from vllm_script.benchmarks.demo_model.stage import Tools, choose_questions
from vllm_script.benchmarks.demo_model.text import train_tokenizer
from vllm_script.benchmarks.scenes.scene import scene_of
from vllm_script.benchmarks.scenes.tiling import PATCHES
from vllm_script.benchmarks.scenes.words import TYPES
from vllm_script.benchmarks.training.checkpoint import load_weights, weights_of


@torch.no_grad()
def test_attention_implementations_agree():
    tools = Tools(train_tokenizer())
    eager, sdpa = Demo("eager"), Demo("sdpa")
    initialise(eager, 0)
    load_weights(sdpa, weights_of(eager))
    scenes, rng = [scene_of(seed) for seed in (1, 2)], np.random.default_rng(0)
    pictures, labels = pictures_of(scenes, PATCHES // 2, rng)
    texts = texts_of(scenes, labels, tools.clip, rng)
    first, second = (forward.patch_states(demo, pictures) for demo in (eager, sdpa))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)
    captions = (forward.text_embeddings(demo, texts.captions) for demo in (eager, sdpa))
    torch.testing.assert_close(*captions, atol=1e-4, rtol=1e-4)
    pictures, labels = pictures_of(scenes, PATCHES, rng)
    asked = [choose_questions(scene, 4, set(TYPES)) for scene in scenes]
    keep = Keep(background=0.1, spread=True)
    prompts = prompts_of(scenes, labels, asked, tools.tokenizer, keep, rng)
    logits = [
        forward.answer_logits(
            demo, prompts, forward.visual_rows(demo, forward.patch_states(demo, pictures))
        )[0]
        for demo in (eager, sdpa)
    ]
    torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-3)
