"""Rows that an encoder puts into a folder, and what a language model takes out of it."""

import errno
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vllm.distributed.ec_transfer.ec_connector.base import ECConnectorRole
from vllm.multimodal.inputs import PlaceholderRange

from vllm_script.worker.row_store import RowStore


def store(folder, role="ec_both", model="tiny"):
    model_config = SimpleNamespace(
        served_model_name=model,
        hf_config=SimpleNamespace(architectures=["ScriptLlava"]),
        dtype=torch.float32,
        multimodal_config=SimpleNamespace(mm_processor_kwargs=None),
    )
    transfer = SimpleNamespace(
        is_ec_producer=role != "ec_consumer",
        is_ec_consumer=role != "ec_producer",
        get_from_extra_config=lambda key, default: str(folder),
    )
    config = SimpleNamespace(model_config=model_config, ec_transfer_config=transfer)
    return RowStore(config, ECConnectorRole.WORKER)


def request(*images, name="a"):
    """A request whose images are (identifier, number of rows), each in ten tokens of the prompt."""
    return SimpleNamespace(
        request_id=name,
        mm_features=[
            SimpleNamespace(
                identifier=identifier, mm_position=PlaceholderRange(offset=10 * index, length=10)
            )
            for index, (identifier, _) in enumerate(images)
        ],
        get_num_encoder_embeds=lambda index: images[index][1],
    )


def loaded(reader, identifier, num_rows=3):
    asked = request((identifier, num_rows))
    assert reader.ensure_cache_available(asked, 0)
    reader.update_state_after_alloc(asked, 0)
    reader.bind_connector_metadata(reader.build_connector_meta(None))
    encoder_cache = {}
    reader.start_load_caches(encoder_cache)
    return encoder_cache.get(identifier)


def test_rows_travel(tmp_path):
    encoder, reader = store(tmp_path, "ec_producer"), store(tmp_path, "ec_consumer")
    assert not reader.has_cache_item("x")
    rows = torch.randn(6, 4)[::2]
    encoder.save_caches({"x": rows}, "x")
    assert reader.has_cache_item("x")
    assert torch.equal(loaded(reader, "x"), rows)
    assert loaded(reader, "y") is None


def test_a_language_model_writes_nothing(tmp_path):
    store(tmp_path, "ec_consumer").save_caches({"x": torch.ones(3, 4)}, "x")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_models_do_not_share(tmp_path):
    store(tmp_path).save_caches({"x": torch.ones(3, 4)}, "x")
    assert not store(tmp_path, model="other").has_cache_item("x")


@pytest.mark.parametrize("name", ["../../escape", "/absolute", "a\0b", "\udc80", "x" * 5000, ""])
def test_a_clients_uuid_is_no_path(tmp_path, name):
    inside = tmp_path / "store"
    store(inside).save_caches({name: torch.ones(3, 4)}, name)
    assert store(inside).has_cache_item(name)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == list(inside.glob("*/*"))


def test_a_file_that_is_not_whole_is_not_there(tmp_path):
    writer = store(tmp_path)
    writer.save_caches({"x": torch.ones(3, 4)}, "x")
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert not writer.has_cache_item("x")
    file.write_bytes(whole)
    assert writer.has_cache_item("x")


def test_a_writer_that_is_stopped_leaves_nothing_under_the_name(tmp_path, monkeypatch):
    writer = store(tmp_path)

    def stopped(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        writer.save_caches({"x": torch.ones(3, 4)}, "x")
    assert not writer.has_cache_item("x")
    (left,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert left.match("*.safetensors"), "what removes old rows removes it"


def test_other_counts_end_the_request_alone(tmp_path):
    writer = store(tmp_path)
    writer.save_caches({"x": torch.ones(3, 4)}, "x")
    assert not writer.ensure_cache_available(request(("y", 9), ("x", 4), name="bad"), 0)
    assert writer.ensure_cache_available(request(("y", 9), ("x", 3), name="good"), 0)
    assert writer.take_unavailable_requests() == {"bad"}
    assert writer.take_unavailable_requests() == set()


def test_counts_are_looked_at_until_an_image_is_computed(tmp_path):
    writer = store(tmp_path)
    asked = request(("x", 4), ("y", 3))
    assert writer.ensure_cache_available(asked, 0), "no file has come yet"
    writer.save_caches({"x": torch.ones(3, 4)}, "x")
    assert not writer.ensure_cache_available(asked, 9)
    assert writer.ensure_cache_available(asked, 10)
    writer.save_caches({"y": torch.ones(3, 4)}, "y")
    assert writer.ensure_cache_available(asked, 10)
    writer.save_caches({"y": torch.ones(5, 4)}, "y")
    assert not writer.ensure_cache_available(asked, 19)
    assert writer.ensure_cache_available(asked, 20)


def test_a_client_is_told_nothing_of_rows(tmp_path):
    assert store(tmp_path).request_finished(request(("x", 3))) == (False, None)


def test_a_disk_that_is_full_costs_the_rows_alone(tmp_path, monkeypatch, caplog):
    writer = store(tmp_path)

    def write_bytes(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "vllm.script"):
        patch.setattr(Path, "write_bytes", write_bytes)
        writer.save_caches({"x": torch.ones(3, 4)}, "x")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert str(tmp_path) in record.getMessage()
    writer.save_caches({"x": torch.ones(3, 4)}, "x")
    assert writer.has_cache_item("x")


def test_what_is_asked_for_counts_as_new(tmp_path):
    writer = store(tmp_path)
    writer.save_caches({"x": torch.ones(3, 4)}, "x")
    (file,) = tmp_path.rglob("*.safetensors")
    os.utime(file, (0, 0))
    assert writer.ensure_cache_available(request(("x", 3)), 0)
    assert file.stat().st_mtime == 0, "a look is no use"
    assert writer.has_cache_item("x")
    assert time.time() - file.stat().st_mtime < 60


@pytest.mark.parametrize("header", ["{}", "[]", "3", "{", '{"ec_cache": {}}', '"\xff"'])
def test_a_file_that_is_broken_is_not_there(tmp_path, header):
    reader = store(tmp_path)
    data = header.encode("latin-1")
    reader._folder.path("x").write_bytes(len(data).to_bytes(8, "little") + data)
    assert not reader.has_cache_item("x")
    assert reader.ensure_cache_available(request(("x", 3)), 0)


def test_a_file_that_cannot_be_read_is_not_there(tmp_path):
    reader = store(tmp_path)
    reader._folder.path("x").mkdir()
    assert not reader.has_cache_item("x")
