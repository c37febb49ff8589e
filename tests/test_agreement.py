"""What servers have in common that take each other's KV cache."""

import importlib
from types import SimpleNamespace

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs

from vllm_script.agreement import has_nixl, peer_name
from vllm_script.patches.nixl_handshake import _WORKER, compare_between_peers

HASH = "compute_nixl_compatibility_hash"


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
