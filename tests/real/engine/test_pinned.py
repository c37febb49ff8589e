"""Identifiers, plans and placeholder counts of a fixed list of requests, as they were pinned.

What is cached elsewhere under an identifier stays valid only as long as these do not change. To pin
anew, after ALGORITHM_VERSION was raised or a request was added:

    PIN=1 pytest tests/real/engine/test_pinned.py
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import renderer_from_config
from vllm.renderers.params import ChatParams

from vllm_script.benchmarks.checkpoints import WRITERS
from vllm_script.plan import Plan, identifier

from ...mistral import data_url

PINNED = Path(__file__).with_name("pinned.json")
CLIP = "the digest of CLIP"  # which depends on versions: transformers writes its own into files


def picture(name, width=168, height=168):
    """A part of a message: an image, known to vLLM's caches by a name of its own."""
    pixels = np.random.default_rng(len(name)).integers(0, 255, (height, width, 3), dtype=np.uint8)
    url = data_url(Image.fromarray(pixels))
    return {"type": "image_url", "image_url": {"url": url}, "uuid": name}


def user(*parts):
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


def assistant(text):
    return {"role": "assistant", "content": text}


ONE = [user(picture("one"), "What color is the cross?")]
SEVERAL = [
    user("Compare", picture("one"), picture("wide", 300, 90), "and", picture("tiny", 40, 20))
]
TURNS = [
    {"role": "system", "content": "You are terse."},
    user(picture("one"), "What is this?"),
    assistant("A temple."),
    user("And here?", picture("high", 84, 230)),
    user("Look closely."),
]
SILENT = [user(picture("one")), assistant("?"), user("Why?")]
LONG = [user(picture("one"), "How many of the red dots touch a blue line? " * 40)]

MODES = ("script", "gsp", "cdpruner", "divprune", "uniform", "random", "coverage", "mmr")
REQUESTS = {
    **{f"mode {mode}": ({}, ONE, {"mode": mode}) for mode in MODES},
    **{
        f"operator's parameters, {mode}": (
            {"mode": mode, "tau": 0.3, "tau_relative": False, "gamma": 2, "pool_ratio": 0.7},
            ONE,
            {},
        )
        for mode in MODES
    },
    "geometry": ({"mode": "divprune"}, ONE, {"geometry": "centered"}),
    "geometry that is not read": ({"mode": "gsp", "geometry": "centered"}, ONE, {}),
    "operator's seed": ({"mode": "random", "seed": 7}, ONE, {}),
    "several": ({}, SEVERAL, {}),
    "turns": ({}, TURNS, {"conversation": "turn"}),
    "newest question": ({}, TURNS, {}),
    "no question": ({}, SILENT, {}),
    "several windows": ({}, LONG, {}),
    "a query": ({}, TURNS, {"query": "a bird"}),
    "ratio": ({}, SEVERAL, {"keep_ratio": 0.5}),
    "whole": ({}, SEVERAL, {"keep_ratio": 1.0}),
    "budget": ({"visual_token_budget": 30}, SEVERAL, {}),
    "budget of the request": ({}, SEVERAL, {"visual_token_budget": 90}),
    "no relevance": ({}, ONE, {"relevance": "none"}),
    "embedding": ({}, ONE, {"relevance": "embedding"}),
    "at most": ({"visual_token_budget": 64, "max_keep_ratio": 0.5}, SEVERAL, {}),
    "no caches of ours": ({"cache_gb": 0}, SEVERAL, {}),
}
AS_ANOTHER = {
    *("qwen2-vl", "qwen3-vl-moe", "qwen3.5", "qwen3.5-moe", "glm4.6v"),
    *("internvl-chat", "internvl3.5", "internvl3.5-chat", "interns1"),
}
"""Families with the layouts of qwen2.5-vl, of qwen3-vl, of glm4.1v and of internvl."""
FAMILIES = [name for name in WRITERS if name not in AS_ANOTHER]


def renderer_of(folder, settings):
    """The API process's renderer under these settings, with relevance that reads the question."""
    settings = {"relevance": "clip" if (folder / "clip").exists() else "embedding"} | settings
    args = EngineArgs(
        str(folder),
        additional_config={"script": settings},
        trust_remote_code=True,  # for Kimi-VL's processor
    )
    return renderer_from_config(args.create_engine_config())


def images(folder, requests):
    """What vLLM would send to the engine of the images of each request."""
    renderers = {}
    for name, (settings, messages, overrides) in requests.items():
        if (key := repr(settings)) not in renderers:
            renderers[key] = renderer_of(folder, settings)
        params = ChatParams(chat_template_kwargs={"script": overrides} if overrides else {})
        _, (prompt,) = renderers[key].render_chat([messages], params, skip_mm_cache=True)
        parts = [part for message in messages for part in message["content"]]
        uuids = [part["uuid"] for part in parts if "uuid" in part]
        yield name, list(items(prompt, "image", uuids))


def items(prompt, modality, uuids):
    """Of each item: identifier, placeholders, and the fields that the worker reads."""
    spans, sent = prompt["mm_placeholders"][modality], prompt["mm_kwargs"][modality]
    suffix = "" if modality == "image" else f"_{modality}"
    names = prompt["mm_hashes"][modality]
    for uuid, name, span, item in zip(uuids, names, spans, sent, strict=True):
        fields = (f"script_{field}{suffix}" for field in ("plan", "count", "key"))
        plan, count, key = (item[field].data if field in item else None for field in fields)
        plan = Plan.decode(bytes(plan.tolist())) if plan is not None and len(plan) else None
        assert name == identifier(uuid, plan)
        if plan is not None and plan.clip_digest is not None:
            plan = replace(plan, clip_digest=CLIP)
        yield {
            "identifier": identifier(uuid, plan),
            "placeholders": span.length,
            "rows": span.get_num_embeds(),
            "plan": plan.encode().decode() if plan else "",
            "count": int(count) if plan else 0,
            "key": bytes(key.tolist()).hex() if plan else "",
        }


def check(family, found):
    """Compare with the file, or write it where PIN is set."""
    pinned = json.loads(PINNED.read_text()) if PINNED.exists() else {}
    if os.environ.get("PIN"):
        pinned[family] = found
        PINNED.write_text(json.dumps(pinned, indent=1) + "\n")
    assert family in pinned, "not pinned yet; see the top of this file"
    assert found == pinned[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_images_are_as_they_were_pinned(known_family, family_checkpoint, family):
    if "image" not in known_family(family).modalities:
        pytest.skip("vLLM takes no images for this family")
    check(family, dict(images(family_checkpoint(family), REQUESTS)))


@pytest.mark.parametrize("family", FAMILIES)
def test_videos_are_as_they_were_pinned(known_family, family_checkpoint, family):
    if "video" not in known_family(family).modalities:
        pytest.skip("vLLM takes no videos for this family")
    renderer = renderer_of(family_checkpoint(family), {})
    shape = (8, 84, 280, 3)
    frames = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    about = dict(fps=2.0, duration=4.0, total_num_frames=8, frames_indices=list(range(8)))
    film = (frames, about | dict(video_backend="opencv", do_sample_frames=False))
    found = {}
    for keep_ratio in (0.11, 0.5, 1.0):
        messages = [{"role": "user", "content": [{"type": "video"}, *user("Who runs?")["content"]]}]
        prompt = {
            "prompt": renderer.get_tokenizer().apply_chat_template(messages, tokenize=False),
            "multi_modal_data": {"video": [film]},
            "multi_modal_uuids": {"video": ["film"]},
            "mm_processor_kwargs": {"script": {"keep_ratio": keep_ratio}},
        }
        (rendered,) = renderer.render_cmpl([prompt], skip_mm_cache=True)
        found[f"{keep_ratio}"] = list(items(rendered, "video", ["film"]))
    check(f"{family}, videos", found)
