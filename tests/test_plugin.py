"""`register`: idempotent, silent, and without effect on a vLLM that the plugin does not know."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from vllm_script import checks, plugin
from vllm_script.families import FAMILIES, pruned_name
from vllm_script.patches.probing import unsupported

HERE = pathlib.Path(__file__).parent
SUPPORTED = unsupported("")
GUARD = {
    f"vllm.engine.arg_utils:EngineArgs.{name}"
    for name in ("add_cli_args", "from_cli_args", "create_engine_config", "create_model_config")
}
"""All that may be replaced on a vLLM that is not known: who asks has to be told."""
UNKNOWN = {
    "other_version": "this is 0.99.0",
    "no_version": "this is an unnumbered one",
    "model_config_made_elsewhere": "has no attribute 'create_model_config'",
    "model_config_made_of_something": "create_model_config takes (something), not ()",
    "flags_added_elsewhere": "has no attribute 'from_cli_args'",
    "settings_called_otherwise": "this is 1.0.0",
    "no_models_to_register": "has no attribute 'register_model'",
    "engine_args_renamed": None,
    "engine_args_moved": None,
    "flags_of_our_names": "this is 0.99.0",
}
"""Name of a vLLM -> what is told to who asks; None where nobody can be told."""
WAYS_TO_ASK = [
    (vllm, flag)
    for vllm, problem in UNKNOWN.items()
    for flag in ("--plugin", "--keep-ratio", "--script-explain", "--additional-config")
    # There vLLM's parser takes no flags at all; here it has that one itself.
    if problem and vllm != "flags_added_elsewhere"
    if (vllm, flag) != ("flags_of_our_names", "--keep-ratio")
]


@pytest.fixture(scope="module")
def unknown():
    """What `register` did in each of those vLLMs."""
    command = [sys.executable, HERE / "unknown_vllms.py"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    seen = json.loads(output.splitlines()[-1])  # vLLM logs what it does before
    assert seen.keys() == UNKNOWN.keys() | {"vllm serve"}
    return seen


@pytest.mark.parametrize("vllm", UNKNOWN)
def test_who_never_asks_sees_no_difference(unknown, vllm):
    seen = unknown[vllm]
    assert seen["register"] == ["none", "", ""]
    assert seen["logged"] == []
    assert set(seen["changed"]) <= GUARD
    assert seen["parsed as before"] and seen["library as before"]
    if seen["moved"]:
        assert seen["changed"] == []


@pytest.mark.parametrize("vllm", [vllm for vllm, problem in UNKNOWN.items() if problem])
def test_who_asks_in_the_library_is_told(unknown, vllm):
    kind, text, printed = unknown[vllm]["additional_config"]
    assert (kind, printed) == ("RuntimeError", "")
    assert text.startswith(SUPPORTED) and UNKNOWN[vllm] in text and "\n" not in text


@pytest.mark.parametrize("vllm, flag", WAYS_TO_ASK)
def test_who_asks_on_the_command_line_is_told_in_one_line(unknown, vllm, flag):
    kind, status, printed = unknown[vllm][flag]
    assert (kind, status) == ("SystemExit", "2")
    assert re.fullmatch(f"vllm: error: {re.escape(SUPPORTED)}[^\n]+\n", printed)
    assert UNKNOWN[vllm] in printed


def test_vllm_serve_of_another_version_ends_in_one_line(unknown):
    kind, status, printed = unknown["vllm serve"]
    assert (kind, status) == ("SystemExit", "2")
    assert printed.splitlines()[-1] == f"vllm: error: {SUPPORTED}this is 0.99.0"
    assert "Traceback" not in printed


def test_every_family_is_registered():
    from vllm import ModelRegistry

    plugin.register()
    plugin.register()
    assert {pruned_name(stock) for stock in FAMILIES} <= set(ModelRegistry.get_supported_archs())


def test_an_error_of_our_own_stays_inside(monkeypatch, caplog):
    monkeypatch.setattr(plugin.supported, "start_up_problem", lambda: 1 / 0)
    with caplog.at_level("INFO"):
        plugin.register()
    assert not caplog.records


def test_the_start_up_line():
    from types import SimpleNamespace

    from vllm_script.config import ScriptConfig

    hf_config = SimpleNamespace(
        architectures=["ScriptLlavaForConditionalGeneration"],
        vision_config=SimpleNamespace(image_size=336, patch_size=14),
    )
    config = ScriptConfig(keep_ratio=0.5, relevance="embedding")
    assert checks.summary(config, hf_config) == (
        "Script pruning: keep ratio 0.5, mode script, relevance embedding "
        "(336x336: 576 -> 288 visual tokens)"
    )
