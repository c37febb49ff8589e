"""What servers must have in common that share images, or take each other's KV cache."""

import importlib
from types import SimpleNamespace

import pytest
import torch
from vllm.engine.arg_utils import AsyncEngineArgs

from vllm_script.agreement import difference, digest, model_terms, peer_name, terms
from vllm_script.config import ScriptConfig
from vllm_script.connectors import has_nixl
from vllm_script.patches.nixl_handshake import _WORKER, compare_between_peers

HASH = "compute_nixl_compatibility_hash"


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
    own = {"cache_gb": 2, "kernels": "torch", "explain": True, "max_item_tokens": 64}
    one = terms(model_config(clip_model="/a", **own))
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


@pytest.fixture
def compatibility(checkpoint, monkeypatch):
    """compatibility(family, settings, **flags) -> what NIXL compares of a server with them."""
    worker = importlib.import_module(_WORKER)
    monkeypatch.setattr(worker, HASH, getattr(worker, HASH))  # as it was, after the test
    compare_between_peers(peer_name)

    def compatibility(settings, **flags):
        additional = {} if settings is None else {"script": settings}
        args = AsyncEngineArgs(
            str(checkpoint("llava-1.5")), additional_config=additional, dtype="float32", **flags
        )
        return getattr(worker, HASH)(args.create_engine_config(), "CPU_ATTN", transfer_mode="pull")

    return compatibility


def test_nixl_peers_compare_settings(compatibility):
    own = compatibility({})
    assert compatibility({"keep_ratio": 0.11, "cache_gb": 0.5, "kernels": "torch"}) == own
    others = [
        compatibility(settings)
        for settings in [
            *({"keep_ratio": 0.2}, {"mode": "uniform"}, {"relevance": "none"}, {"tau": 0.2}),
            *({"conversation": "turn"}, {"system_prompt": True}, {"tower_keep": 0.5}),
        ]
    ]
    others.append(compatibility({}, mm_processor_kwargs={"do_resize": False}))
    assert len({own, *others}) == 1 + len(others)
    stock, _, _ = own.partition("-script-")
    assert {each.partition("-script-")[0] for each in others} == {stock}
    assert compatibility(None) == stock, "a server that does not prune is no peer"


@pytest.mark.parametrize(
    ("connector", "options", "expected"),
    [
        ("NixlConnector", {}, True),
        ("NixlPushConnector", {}, True),
        ("MultiConnector", {"connectors": [{"kv_connector": "NixlConnector"}]}, True),
        ("MultiConnector", {"connectors": [{"kv_connector": "OffloadingConnector"}]}, False),
        ("OffloadingConnector", {}, False),
    ],
)
def test_nixl_is_found_where_it_is_combined(connector, options, expected):
    transfer = {"kv_connector": connector, "kv_connector_extra_config": options}
    assert has_nixl(SimpleNamespace(kv_transfer_config=transfer)) == expected


def test_nixl_is_found_only_where_it_is():
    assert not has_nixl(SimpleNamespace(kv_transfer_config=None))
