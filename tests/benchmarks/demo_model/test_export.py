"""An exported folder loads with transformers and gives the numbers that training saw."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel

from vllm_script.benchmarks.demo_model import forward
from vllm_script.benchmarks.demo_model.batches import pictures_of
from vllm_script.benchmarks.demo_model.export import export
from vllm_script.benchmarks.demo_model.initialise import initialise
from vllm_script.benchmarks.demo_model.model import FEATURE_LAYER, Demo
from vllm_script.benchmarks.demo_model.prompts import EVERYTHING, prompts_of
from vllm_script.benchmarks.demo_model.stage import Tools, choose_questions
from vllm_script.benchmarks.demo_model.text import CLIP_EOS, train_tokenizer
from vllm_script.benchmarks.scenes.answering import Answerer
from vllm_script.benchmarks.scenes.pictures import draw
from vllm_script.benchmarks.scenes.scene import scene_of
from vllm_script.benchmarks.scenes.tiling import PATCHES
from vllm_script.benchmarks.scenes.words import TYPES

MAX_BYTES = 16_000_000
SEEDS = (3, 4, 5)


@pytest.fixture(scope="module")
def tools():
    return Tools(train_tokenizer())


@pytest.fixture(scope="module")
def demo():
    model = Demo()
    initialise(model, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    return model.eval()


@pytest.fixture(scope="module")
def folder(demo, tools, tmp_path_factory):
    return export(demo, tools.tokenizer, tmp_path_factory.mktemp("export"))


@torch.no_grad()
def test_transformers_gives_the_logits_of_training(demo, tools, folder, monkeypatch):
    monkeypatch.setattr("vllm_script.benchmarks.demo_model.prompts.FOLLOW_UP_SHARE", 0.0)
    scenes = [scene_of(seed) for seed in SEEDS]
    rng = np.random.default_rng(0)
    pictures, labels = pictures_of(scenes, PATCHES, rng)
    asked = [choose_questions(scene, 4, set(TYPES)) for scene in scenes]
    prompts = prompts_of(scenes, labels, asked, tools.tokenizer, EVERYTHING, rng)
    rows = forward.visual_rows(demo, forward.patch_states(demo, pictures))
    ours, targets = forward.answer_logits(demo, prompts, rows)
    answerer = Answerer(folder)
    theirs, answers = [], []
    for scene, questions in zip(scenes, asked, strict=True):
        for question in questions:
            inputs = answerer.inputs(draw(scene)[0], question.text)
            theirs.append(answerer.model(**inputs).logits[0, -1])
            answers += tools.tokenizer.encode(" " + question.answer).ids
    # Each answer has two targets, its word and the end; a fresh prompt predicts the word.
    assert targets[::2].tolist() == answers
    torch.testing.assert_close(ours[::2], torch.stack(theirs), atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_clip_folder_gives_the_relevance_of_training(demo, tools, folder):
    scenes = [scene_of(seed) for seed in SEEDS]
    pictures, _ = pictures_of(scenes, PATCHES, np.random.default_rng(0))
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "clip")
    text = "What color is the star?"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids[0].tolist() == tools.clip.encode(text).ids
    assert ids[0, -1] == clip.config.text_config.eos_token_id == ids.max()
    pixels = pictures.tiles.permute(0, 3, 1, 2).float() / 127.5 - 1
    seen = clip.vision_model(pixels, output_hidden_states=True)
    patches = clip.vision_model.post_layernorm(seen.hidden_states[FEATURE_LAYER][:, 1:])
    states = forward.patch_states(demo, pictures)
    torch.testing.assert_close(
        F.normalize(clip.visual_projection(patches), dim=-1),
        forward.patch_embeddings(demo, states), atol=1e-4, rtol=1e-3,
    )  # fmt: skip
    torch.testing.assert_close(
        F.normalize(clip.visual_projection(seen.pooler_output), dim=-1),
        forward.tile_embeddings(demo, states), atol=1e-4, rtol=1e-3,
    )  # fmt: skip
    pooled = clip.text_model(input_ids=ids).pooler_output
    torch.testing.assert_close(
        F.normalize(clip.text_projection(pooled), dim=-1),
        forward.text_embeddings(demo, ids), atol=1e-4, rtol=1e-3,
    )  # fmt: skip


def test_names_are_those_of_published_checkpoints(folder):
    names = load_file(folder / "model.safetensors").keys()
    for name in (
        "image_newline",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.pre_layrnorm.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "language_model.model.embed_tokens.weight",
    ):
        assert name in names
    config = json.loads((folder / "config.json").read_text())
    assert config["text_config"]["rope_theta"] == 1e6
    assert config["text_config"]["num_attention_heads"] % 2 == 0
    assert config["torch_dtype"] == "bfloat16"
    assert json.loads((folder / "clip" / "config.json").read_text())["patch_polarity"] == "positive"


def test_size(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= MAX_BYTES


def test_chat_template_takes_strings_and_parts(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    parts = [{"type": "image"}, {"type": "text", "text": "Hello?"}]
    for content in (parts, parts[::-1], "<image>\nHello?"):
        turns = [{"role": "user", "content": content}]
        prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert prompt == "USER: <image>\nHello? ASSISTANT:"
    turns += [{"role": "assistant", "content": "red"}, {"role": "user", "content": "And?"}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompt == "USER: <image>\nHello? ASSISTANT: red</s>USER: And? ASSISTANT:"


def test_tokenizer_keeps_special_ids_apart(tools):
    assert tools.tokenizer.token_to_id(CLIP_EOS) == tools.tokenizer.get_vocab_size() - 1
    assert tools.tokenizer.encode("USER: <image>\nHi").ids.count(3) == 1


@torch.no_grad()
def test_follow_up_is_the_next_turn_of_a_chat(demo, tools, folder, monkeypatch):
    monkeypatch.setattr("vllm_script.benchmarks.demo_model.prompts.FOLLOW_UP_SHARE", 1.0)
    scene, rng = scene_of(3), np.random.default_rng(0)
    pictures, labels = pictures_of([scene], PATCHES, rng)
    first, second = choose_questions(scene, 2, set(TYPES))
    asked = [[first, second]]
    prompts = prompts_of([scene], labels, asked, tools.tokenizer, EVERYTHING, rng)
    rows = forward.visual_rows(demo, forward.patch_states(demo, pictures))
    ours, _ = forward.answer_logits(demo, prompts, rows)
    answerer = Answerer(folder)
    inputs = answerer.inputs(draw(scene)[0], first.text)
    turns = [
        {"role": "user", "content": f"<image>\n{first.text}"},
        {"role": "assistant", "content": first.answer},
        {"role": "user", "content": second.text},
    ]
    chat = answerer.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    one_turn = answerer.tokenizer.decode(inputs["input_ids"][0])
    chat = one_turn + chat.split(" ASSISTANT:", 1)[1]
    ids = answerer.tokenizer(chat, return_tensors="pt").input_ids
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    theirs = answerer.model(**inputs).logits[0, -1]
    torch.testing.assert_close(ours[2], theirs, atol=2e-3, rtol=1e-3)
