"""What two servers that share images must have in common."""

from types import SimpleNamespace

import torch

from vllm_script.agreement import difference, digest, model_terms, terms
from vllm_script.config import ScriptConfig


def model_config(
    name="tiny", dtype=torch.bfloat16, kwargs=None, digest=None, path="/models/tiny", **settings
):
    return SimpleNamespace(
        model=path,
        served_model_name=name,
        hf_config=SimpleNamespace(architectures=["ScriptLlava"]),
        dtype=dtype,
        multimodal_config=SimpleNamespace(mm_processor_kwargs=kwargs),
        vllm_script=ScriptConfig(**settings).to_dict()
        | ({"clip_digest": digest} if digest else {}),
    )


def test_servers_with_the_same_flags_agree():
    assert difference(terms(model_config()), terms(model_config())) is None


def test_what_no_plan_depends_on_may_differ():
    one = terms(model_config(cache_gb=2, kernels="torch", explain=True, clip_model="/a"))
    assert difference(one, terms(model_config(clip_model="/b"))) is None


def test_what_differs_is_named_with_both_values():
    for changes, words in [
        ({"keep_ratio": 0.5}, "keep_ratio is 0.11 here and 0.5 there"),
        ({"mode": "gsp"}, "mode is script here and gsp there"),
        ({"digest": "ab"}, "clip_digest is None here and ab there"),
        ({"name": "other"}, "model is tiny here and other there"),
        ({"path": "/mnt/tiny"}, "model_path is /models/tiny here and /mnt/tiny there"),
        ({"dtype": torch.float16}, "dtype is bfloat16 here and float16 there"),
        ({"kwargs": {"max_pixels": 9}}, 'is {} here and {"max_pixels": 9} there'),
    ]:
        assert words in difference(terms(model_config()), terms(model_config(**changes)))


def test_a_models_folder_is_its_own():
    names = {
        digest(model_terms(model_config(**changes)))
        for changes in ({}, {"keep_ratio": 0.5}, {"name": "b"}, {"dtype": torch.float16})
    }
    assert len(names) == 3, "settings share a folder: identifiers have them"
