"""The table of families, and what the tests of all families need for each."""

import pathlib

import pytest

from vllm_script import families
from vllm_script.benchmarks.checkpoints import WRITERS
from vllm_script.families import FAMILIES, family_of, pruned_name
from vllm_script.family import Family

from ..mistral import architecture

SHARED = {"__init__", "anyres", "boxes", "counted", "drafting", "mrope", "qwen_tower"}
"""Modules that are no families."""


def test_every_module_is_in_the_table():
    modules = {path.stem for path in pathlib.Path(families.__file__).parent.glob("*.py")}
    assert modules - SHARED == set(FAMILIES.values())


def test_every_architecture_has_a_small_checkpoint(checkpoint):
    """tests/real/families runs for what has one."""
    assert {architecture(checkpoint(name)) for name in WRITERS} == FAMILIES.keys()


@pytest.mark.parametrize("architecture", FAMILIES)
def test_what_is_pruned_can_be_shown(architecture):
    """Explain draws images by a family's views, and videos by the boxes of a frame."""
    family = type(family_of(pruned_name(architecture)))
    drawn_by = {"image": "views", "video": "frame_boxes"}
    for modality in family.modalities:
        assert getattr(family, drawn_by[modality]) is not getattr(Family, drawn_by[modality])
