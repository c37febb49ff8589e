"""Servers that share a folder find out at a request that they were started with other settings."""

import json
import os
from types import SimpleNamespace

import pytest
import torch

from vllm_script.config import ScriptConfig
from vllm_script.frontend.peers import FILE, Peers


def server(folder, connector="RowStore", writes=True, kv=False, **settings):
    transfer = SimpleNamespace(
        ec_connector=connector,
        kv_connector=connector,
        is_ec_producer=writes,
        is_kv_producer=writes,
        get_from_extra_config=lambda key, default: str(folder),
    )
    model_config = SimpleNamespace(
        model=f"model with {settings}",
        served_model_name="tiny",
        hf_config=SimpleNamespace(architectures=["ScriptLlava"]),
        dtype=torch.float32,
        multimodal_config=SimpleNamespace(mm_processor_kwargs=None),
        vllm_script=ScriptConfig(**settings).to_dict(),
    )
    return SimpleNamespace(
        model_config=model_config,
        ec_transfer_config=None if kv else transfer,
        kv_transfer_config=transfer if kv else None,
    )


@pytest.mark.parametrize(("kv", "connector"), [(False, "RowStore"), (True, "ExampleConnector")])
def test_other_settings_are_named_with_both_servers(tmp_path, kv, connector):
    reader = Peers(server(tmp_path, connector, writes=False, kv=kv))
    reader.check()  # nobody has written yet
    encoder = Peers(server(tmp_path, connector, kv=kv))
    reader.check()
    encoder.check()
    Peers(server(tmp_path, connector, kv=kv, keep_ratio=0.5))  # started anew, otherwise
    for peer in reader, encoder:
        with pytest.raises(RuntimeError) as error:
            peer.check()
        assert "model with {} on " in str(error.value)
        assert "model with {'keep_ratio': 0.5} on " in str(error.value)
        assert "keep_ratio is 0.11 here and 0.5 there" in str(error.value)
        assert "a folder of its own" in str(error.value)
        assert "\n" not in str(error.value)
    Peers(server(tmp_path, connector, kv=kv))
    reader.check()


def test_terms_are_read_once(tmp_path):
    reader = Peers(server(tmp_path, writes=False))
    Peers(server(tmp_path))
    reader.check()
    file, written = tmp_path / FILE, (tmp_path / FILE).stat().st_mtime_ns
    file.write_text("{")
    os.utime(file, ns=(written, written))
    reader.check()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"server": "a"}', '{"terms": {}}', "\xff"])
def test_a_file_that_is_broken_is_named(tmp_path, text):
    reader, file = Peers(server(tmp_path, writes=False)), tmp_path / FILE
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(RuntimeError, match=f"read from {file} .*; delete the file") as error:
        reader.check()
    assert "\n" not in str(error.value)
    Peers(server(tmp_path))
    reader.check()


def test_other_connectors_share_no_folder(tmp_path):
    Peers(server(tmp_path, "OffloadingConnector", kv=True)).check()
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_whole(tmp_path):
    Peers(server(tmp_path / "new"))
    assert json.loads((tmp_path / "new" / FILE).read_text())["terms"]["model"] == "tiny"
    assert [file.name for file in (tmp_path / "new").iterdir()] == [FILE]
