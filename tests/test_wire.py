"""What is packed in the API process is what the worker unpacks."""

import pytest
import torch
from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import (
    decode_mm_kwargs_item,
    encode_mm_kwargs_item,
)
from vllm.multimodal.inputs import (
    MultiModalFieldConfig,
    MultiModalFieldElem,
    MultiModalKwargsItem,
)
from vllm.v1 import serial_utils

from vllm_script.config import ScriptConfig
from vllm_script.patches.field_types import register_field
from vllm_script.plan import make_plan
from vllm_script.wire import (
    MORE_THAN_ANY_STEP,
    PRUNING_FIELD,
    PackedItem,
    PruningField,
    field_configs,
    mark_dummies,
    pack,
    packed_count,
    packed_total,
    take_mark,
    total_alone,
    unpack,
)

PLAN = make_plan(ScriptConfig(relevance="embedding"), (((1, 2),),))
ITEM = PackedItem(PLAN, 3, 20, b"0123456789abcdef")


@pytest.mark.parametrize("modality", ["image", "video"])
def test_round_trip(modality):
    items = [ITEM, None, PackedItem(PLAN, 7, 60, b"")]
    packed = [pack(item, modality) for item in items]
    batch = {name: [fields[name] for fields in packed] for name in packed[0]}
    batch["pixel_values"] = "the model's"
    assert unpack(batch, modality) == items
    assert batch == {"pixel_values": "the model's"}


def test_a_batch_that_was_not_packed():
    assert unpack({"pixel_values": torch.zeros(1)}, "image") is None


@pytest.mark.parametrize(("item", "count", "total"), [(ITEM, 3, 20), (None, None, None)])
def test_packed_counts(item, count, total):
    fields = field_configs(["video"])
    elements = {
        name: MultiModalFieldElem(data=value, field=fields[name].field)
        for name, value in pack(item, "video").items()
    }
    assert packed_count(elements, "video") == count
    assert packed_total(elements, "video") == total
    assert packed_count({}, "video") is packed_total({}, "video") is None


def test_a_total_alone():
    assert packed_total(total_alone(20, "video"), "video") == 20
    assert packed_total(total_alone(None, "image"), "image") == MORE_THAN_ANY_STEP


def test_our_fields_have_names_of_their_own_for_every_modality():
    image, video = (pack(ITEM, m) | mark_dummies(1, m) for m in ("image", "video"))
    assert not image.keys() & video.keys()
    configs = field_configs(["image", "video"])
    assert configs.keys() == image.keys() | video.keys()
    assert {configs[name].modality for name in video} == {"video"}


@pytest.mark.parametrize("modality", ["image", "video"])
def test_dummies_are_told_apart(modality):
    """And their mark does not reach the model of stock vLLM."""
    batch = {"pixel_values": None, **mark_dummies(3, modality)}
    assert take_mark(batch, modality) and batch == {"pixel_values": None}
    assert not take_mark(batch, modality)


def test_other_servers_refuse_our_fields(monkeypatch):
    """What a pruning server renders is read by another one, and by none without this plugin."""
    rendered = {
        name: MultiModalFieldElem(data=value, field=field_configs(["image"])[name].field)
        for name, value in pack(ITEM, "image").items()
    }
    monkeypatch.setattr(serial_utils, "MMF_CLASS_TO_FACTORY", {**serial_utils.MMF_CLASS_TO_FACTORY})
    monkeypatch.setattr(MultiModalFieldConfig, PRUNING_FIELD, None, raising=False)
    register_field(PruningField, PRUNING_FIELD)
    text = encode_mm_kwargs_item(MultiModalKwargsItem(rendered))
    read = decode_mm_kwargs_item(text)
    assert packed_count(read, "image") == ITEM.count
    assert {type(element.field) for element in read.values()} == {PruningField}
    monkeypatch.delattr(MultiModalFieldConfig, PRUNING_FIELD)
    with pytest.raises(AttributeError, match="no attribute 'field_for_the_script_plugin'"):
        decode_mm_kwargs_item(text)
