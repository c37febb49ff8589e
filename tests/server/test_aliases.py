"""Short names of models. The tests run offline with an empty cache, or with a hub that answers."""

import argparse
import pathlib

import pytest
from vllm.engine.arg_utils import AsyncEngineArgs

from vllm_script import plugin
from vllm_script.server import aliases

VICUNA_7B = "llava-hf/llava-v1.6-vicuna-7b-hf"


@pytest.fixture
def reachable(monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args: "config.json")


def test_names(reachable):
    assert aliases.repository_of("llava-next") == VICUNA_7B
    assert aliases.repository_of(VICUNA_7B) is None
    assert aliases.repository_of("llama") is None


def test_the_model_in_the_package():
    """Without a network: these tests are offline."""
    folder = pathlib.Path(aliases.repository_of("script-demo"))
    assert (folder / "model.safetensors").is_file() and (folder / "clip" / "config.json").is_file()
    assert aliases.served_names("script-demo", str(folder), None) == ["script-demo"]


def test_a_local_folder_of_that_name_wins(reachable, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llava-next").mkdir()
    assert aliases.repository_of("llava-next") is None


def test_out_of_reach(monkeypatch):
    with pytest.raises(ValueError) as error:
        aliases.repository_of("llava-next")
    message = str(error.value)
    assert "\n" not in message
    for word in ("llava-next", VICUNA_7B, "folder", "script-demo", "llava-1.5"):
        assert word in message


@pytest.mark.parametrize(
    "chosen, served", [(None, ["llava-next", VICUNA_7B]), (["mine"], ["mine"])]
)
def test_command_line(reachable, monkeypatch, chosen, served):
    plugin.register()
    monkeypatch.setattr(AsyncEngineArgs, "__post_init__", lambda self: None)  # would download
    args = argparse.Namespace(model="llava-next", served_model_name=chosen, keep_ratio=0.5)
    engine_args = AsyncEngineArgs.from_cli_args(args)
    assert engine_args.model == args.model == VICUNA_7B
    assert engine_args.served_model_name == args.served_model_name == served


def test_command_line_without_pruning_is_stock(reachable, monkeypatch):
    plugin.register()
    monkeypatch.setattr(AsyncEngineArgs, "__post_init__", lambda self: None)
    args = argparse.Namespace(model="llava-next", served_model_name=None)
    assert AsyncEngineArgs.from_cli_args(args).model == "llava-next"


def test_command_line_out_of_reach_is_one_line(capsys):
    plugin.register()
    args = argparse.Namespace(model="llava-next", served_model_name=None, plugin="script")
    with pytest.raises(SystemExit) as exit_:
        AsyncEngineArgs.from_cli_args(args)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("vllm: error: llava-next stands for")
