"""What is refused before anything is pruned, where it needs no server to see."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from vllm.config import KVTransferConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

from vllm_script import checks
from vllm_script.checks import (
    KEYED_BY_TOKENS,
    check_connectors,
    check_kernels,
    check_supported,
    check_tower,
)
from vllm_script.config import ScriptConfig

RIGHT = {
    *("OffloadingConnector", "SimpleCPUOffloadConnector", "MooncakeStoreConnector"),
    *("NixlConnector", "NixlPullConnector", "NixlPushConnector"),
    *("MooncakeConnector", "MoRIIOConnector"),
    "LMCacheConnectorV1",  # by the package lmcache, which keys by the identifier as well
    *("ExampleConnector", "ExampleHiddenStatesConnector", "DecodeBenchConnector"),  # to try things
    "HiSparseConnector",  # of one engine's own requests
}


def arguments(transfer=None, size=None, backend="native"):
    return SimpleNamespace(
        kv_transfer_config=transfer, kv_offloading_size=size, kv_offloading_backend=backend
    )


def transfer(name, module=None, **options):
    return KVTransferConfig(
        kv_connector=name,
        kv_role="kv_both",
        kv_connector_module_path=module,
        kv_connector_extra_config=options,
    )


def multi(*connectors):
    children = [{"kv_role": "kv_both", **each} for each in connectors]
    return transfer("MultiConnector", connectors=children)


@pytest.fixture
def module(monkeypatch):
    """A module of the operator's with a connector that derives from one of vLLM's."""

    class HF3FSKVConnector:
        pass

    class Mine(HF3FSKVConnector):
        pass

    name = "my_connectors"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[name].Mine = Mine
    return name


def test_every_connector_of_vllm_is_known():
    """A new one is to be read: does what it stores have the image in its key?"""
    assert RIGHT | KEYED_BY_TOKENS | {"MultiConnector"} == KVConnectorFactory._registry.keys()


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_connectors_that_are_right(name):
    for each in transfer(name), multi({"kv_connector": name}):
        check_connectors(arguments(each))


def test_without_connectors():
    check_connectors(arguments())
    check_connectors(arguments(KVTransferConfig()))
    check_connectors(arguments(size=4.0))
    check_connectors(arguments(backend="lmcache"))


@pytest.mark.parametrize("name", sorted(KEYED_BY_TOKENS))
def test_keys_of_token_ids(name):
    inside = multi({"kv_connector": "NixlConnector"}, {"kv_connector": name})
    deeper = multi(
        {
            "kv_connector": "MultiConnector",
            "kv_connector_extra_config": {"connectors": [{"kv_connector": name}]},
        }
    )
    for each in transfer(name), transfer(name, "somewhere.else"), inside, deeper:
        with pytest.raises(ValueError, match=f"{name} keys by token ids alone.*OffloadingConn"):
            check_connectors(arguments(each))


def test_a_connector_of_a_module_that_derives_from_one(module):
    for each in (
        transfer("Mine", module),
        multi({"kv_connector": "Mine", "kv_connector_module_path": module}),
    ):
        with pytest.raises(ValueError, match="HF3FSKVConnector keys by token ids"):
            check_connectors(arguments(each))
    check_connectors(arguments(transfer("Other", module)))  # vLLM says that there is none


def test_native_lmcache():
    inside = {
        "kv_connector": "LMCacheConnectorV1",
        "kv_connector_extra_config": {"use_native": True},
    }
    for each in transfer("LMCacheConnectorV1", use_native=True), multi(inside):
        with pytest.raises(ValueError, match="use_native keys by 16 bits"):
            check_connectors(arguments(each))
    check_connectors(arguments(transfer("LMCacheConnectorV1", use_native=False)))


def test_offloading_to_lmcache():
    with pytest.raises(ValueError, match="LMCacheMPConnector keys by token ids"):
        check_connectors(arguments(size=4.0, backend="lmcache"))


@pytest.mark.parametrize("name", sorted(name for name in RIGHT if "Nixl" in name))
@pytest.mark.parametrize("value", [False, None, 0])
def test_nixl_peers_that_would_not_compare(name, value):
    """vLLM's error about peers that do not fit recommends it."""
    unchecked = {"enforce_handshake_compat": value}
    inside = multi(
        {"kv_connector": "OffloadingConnector"},
        {"kv_connector": name, "kv_connector_extra_config": unchecked},
    )
    for each in transfer(name, **unchecked), inside:
        with pytest.raises(ValueError, match=r"enforce_handshake_compat: .*remove it, and") as e:
            check_connectors(arguments(each))
        assert "\n" not in str(e.value)
    check_connectors(arguments(transfer(name, enforce_handshake_compat=True)))
    check_connectors(arguments(transfer("OffloadingConnector", **unchecked)))


def test_rocm_is_refused_before_anything_else(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.1.25424")
    with pytest.raises(ValueError, match="does not support ROCm: .* remove --plugin script") as e:
        check_supported(None, None)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("kernels", ["auto", "torch", "triton"])
@pytest.mark.parametrize(
    ("platform", "has_triton", "interpreted", "problem"),
    [
        ("cuda", True, False, None),
        ("cpu", True, True, None),
        ("cpu", True, False, "triton needs an NVIDIA GPU, and vLLM runs on cpu here; use "),
        ("xpu", True, False, "triton needs an NVIDIA GPU, and vLLM runs on xpu here; use "),
        ("cuda", False, False, "triton needs Triton, which is not installed; install it "),
    ],
)
def test_kernels_that_cannot_run(kernels, platform, has_triton, interpreted, problem, monkeypatch):
    device = SimpleNamespace(device_type=platform, is_cuda=lambda: platform == "cuda")
    monkeypatch.setattr("vllm.platforms.current_platform", device)
    monkeypatch.setattr(checks, "HAS_TRITON", has_triton)
    monkeypatch.setattr(checks, "is_interpreted", lambda: interpreted)
    config = ScriptConfig(kernels=kernels)
    if kernels != "triton" or problem is None:
        check_kernels(config)
        return
    with pytest.raises(ValueError, match=f"^--script-kernels {problem}.*--script-kernels auto or"):
        check_kernels(config)


def tower_of(architecture, mode="weights", compiled=False, keep=0.5, depth=12, layer=-2, **vision):
    """Check a thinned tower, of a model of that architecture."""
    config = SimpleNamespace(
        architectures=[f"Script{architecture}"],
        vision_feature_layer=layer,
        vision_config=SimpleNamespace(depth=depth, num_hidden_layers=depth),
        **vision,
    )
    compilation = SimpleNamespace(compile_mm_encoder=compiled)
    arguments = SimpleNamespace(mm_encoder_tp_mode=mode, compilation_config=compilation)
    check_tower(arguments, ScriptConfig(relevance="none", tower_keep=keep), config)


@pytest.mark.parametrize(
    "architecture",
    [
        *("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"),
        *("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
        *("Qwen3VLForConditionalGeneration", "Qwen3_5ForConditionalGeneration"),
        *(
            "InternVLForConditionalGeneration",
            "InternVLChatModel",
            "InternS1ForConditionalGeneration",
        ),
        "Glm4vForConditionalGeneration",
    ],
)
def test_towers_that_can_be_thinned(architecture):
    tower_of(architecture)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "Gemma3ForConditionalGeneration"}, "cannot do for Gemma3For.*; leave"),
        ({"architecture": "LlavaOnevisionForConditionalGeneration"}, "cannot do for LlavaOnev"),
        ({"mode": "data"}, "--mm-encoder-tp-mode data .*; leave one of the two out"),
        ({"compiled": True}, "compile_mm_encoder .* may compile them for one; leave one out"),
        ({"layer": [-5, -2]}, "is read at one layer, and this model reads .-5, -2.; leave it out"),
        ({"depth": 2}, "between the layers of the vision tower, of which this model has 1"),
        ({"architecture": "InternVLChatModel", "ps_version": "v1"}, "ps_version v1.*leave it out"),
    ],
)
def test_towers_that_cannot_be_thinned(changes, words):
    """In one line, and not where nobody asks for it."""
    changes = {"architecture": "LlavaNextForConditionalGeneration"} | changes
    with pytest.raises(ValueError, match=f"^--script-tower-keep .*{words}"):
        tower_of(**changes)
    tower_of(**changes, keep=1.0)
