"""What a pruned model returns for the items of a step, and what it sees of memory at start-up."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from vllm_script.layout import Layout
from vllm_script.pruning import groups, windows
from vllm_script.relevance.polarity import Polarity
from vllm_script.wire import mark_dummies
from vllm_script.worker import clip_check, dummies
from vllm_script.worker import model as worker_model
from vllm_script.worker.encoded_image import EncodedImage, Survivors

from .stand_in import CASES, Cpu, Cuda, arguments, model_of, pack_item

ASKED = [
    {},
    {"mode": "gsp", "keep_ratio": 0.5},
    None,
    {"relevance": "none"},
    {"mode": "cdpruner", "keep_ratio": None, "visual_token_budget": 3},
    {"keep_ratio": 0.9, "query": (4, 5, 9)},
    {"mode": "divprune"},
    {"mode": "random"},
    {"relevance": "embedding"},
    {"mode": "uniform"},
    {"query": (1, 2)},
    {"mode": "cdpruner"},
]
"""Changes of the settings for each item of a step; None leaves it whole."""

ORDERS = (range(12), range(11, -1, -1), [5, 5, 2, 0])


def check_a_step(machine, kernels, case, orders):
    """Rows of items of several sizes, under different plans: one by one, and together."""
    architecture, modality, config, fields = CASES[case]
    with machine.running():
        model = model_of(architecture, config, machine, kernels=kernels)
        items = [
            (own, None if changes is None else pack_item(model, modality, own, **changes))
            for own, changes in zip(itertools.cycle(fields), ASKED, strict=False)
        ]
        places = sorted(set(itertools.chain(*orders)))
        alone = {
            place: model.embed_multimodal(**arguments(machine, modality, items[place]))[0]
            for place in places
        }
        for order in orders:
            batch = arguments(machine, modality, *(items[place] for place in order))
            together = model.embed_multimodal(**batch)
            for place, rows in zip(order, together, strict=True):
                assert torch.equal(rows, alone[place])
                item = items[place][1]
                assert item is None or len(rows) == item.count
    different = {rows.cpu().numpy().tobytes() for rows in alone.values()}
    assert len(different) > len(places) // 2


def have_windows_of(num_tokens, monkeypatch):
    """In windows of 40 tokens most items are several, and a step many groups."""
    for module in (windows, groups):
        monkeypatch.setattr(module, "MAX_TOKENS", num_tokens)


@pytest.mark.parametrize("most", [8192, 40])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("machine", [Cpu, pytest.param(Cuda, marks=pytest.mark.gpu)])
def test_rows_do_not_depend_on_what_else_is_in_the_step(machine, case, most, monkeypatch):
    have_windows_of(most, monkeypatch)
    check_a_step(machine(), "auto", case, ORDERS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels run on the GPU, see above")
@pytest.mark.parametrize(
    ("case", "most"),
    [
        pytest.param("LLaVA-NeXT, CLIP", 8192, marks=pytest.mark.slow),
        ("LLaVA-NeXT, CLIP", 40),
        ("Qwen2.5-VL, video", 40),
    ],
)
def test_nor_do_rows_that_kernels_choose(case, most, monkeypatch):
    """In Triton's interpreter."""
    pytest.importorskip("triton", reason="Triton is not installed: no kernels")
    have_windows_of(most, monkeypatch)
    check_a_step(Cpu(), "triton", case, [(0, 5, 8, 3)])


@pytest.mark.parametrize(("relevance", "reads"), [("lm-attention", True), ("embedding", False)])
def test_the_first_layer_is_looked_for_where_it_is_asked_for(relevance, reads, monkeypatch):
    """A server that does not read it starts whatever layer there is."""
    seen = []

    def refusing(language_model):
        seen.append(language_model)
        raise ValueError("use --script-relevance embedding")

    monkeypatch.setattr(worker_model, "first_layer", refusing)
    architecture, _, config, _ = CASES["LLaVA-NeXT"]
    if reads:
        with pytest.raises(ValueError, match="use --script-relevance embedding"):
            model_of(architecture, config, Cpu(), relevance=relevance)
    else:
        model_of(architecture, config, Cpu(), relevance=relevance)
    assert len(seen) == reads


def test_what_the_first_layer_finds_relevant_decides():
    """The same item keeps other rows for another question, and than by input embeddings alone."""
    architecture, modality, config, (fields, *_) = CASES["LLaVA-NeXT, lm-attention"]
    with torch.no_grad():
        model = model_of(architecture, config, Cpu())
        kept = [
            model.embed_multimodal(
                **arguments(Cpu(), modality, (fields, pack_item(model, modality, fields, **asked)))
            )[0]
            for asked in ({}, {"query": (4, 5)}, {"relevance": "embedding"}, {"relevance": "none"})
        ]
    assert len({rows.numpy().tobytes() for rows in kept}) == 4


@pytest.fixture
def qwen(monkeypatch):
    """qwen(modality) -> a model on the CPU, an item of 80 tokens, and the sizes of its selections.

    A step has 512 tokens at most.
    """

    def made(modality):
        for module in worker_model, dummies:
            monkeypatch.setattr(module, "check_ranks_agree", lambda kept: None)
        case = "Qwen2.5-VL" if modality == "image" else "Qwen2.5-VL, video"
        architecture, _, config, (fields, *_) = CASES[case]
        model = model_of(architecture, config, Cpu())
        selections, select = [], model.selector.select

        def noting(images, plans):
            selections.append(images)
            return select(images, plans)

        monkeypatch.setattr(model.selector, "select", noting)
        return model, fields, selections

    return made


@pytest.mark.parametrize(("modality", "num_frames"), [("image", 1), ("video", 5)])
def test_memory_is_profiled_for_a_step_of_the_largest_items(
    qwen, modality, num_frames, monkeypatch
):
    """Each has memory of its own, and copies of a video are selected from together, as images."""
    monkeypatch.setattr(dummies, "are_compiled", lambda backend, device: True)
    model, fields, selections = qwen(modality)
    model.embed_multimodal(**fields, **mark_dummies(1, modality))
    (images,) = selections
    assert len(images) == 7 and 6 * 80 < 512 <= 7 * 80
    assert [image.layout.num_frames for image in images] == [num_frames] + [1] * 6
    assert len({image.features.data_ptr() for image in images}) == len(images)
    assert all(torch.equal(image.features, images[0].features) for image in images)
    assert {image.layout.counts for image in images} == {images[0].layout.counts}


def test_memory_is_profiled_for_one_item_where_others_are_selected_from_later(qwen):
    """In plain PyTorch no two are at the same time."""
    model, fields, selections = qwen("image")
    model.embed_multimodal(**fields, **mark_dummies(1, "image"))
    assert list(map(len, selections)) == [1]


@pytest.mark.parametrize(
    ("step", "portions"), [(512, [6, 6, 6, 2]), (10_000, [20]), (160, [2] * 10), (50, [1] * 20)]
)
def test_no_more_is_held_than_a_step_has(qwen, step, portions, monkeypatch):
    """vLLM's dummies are more where it counts what is kept of them."""
    model, fields, selections = qwen("image")
    monkeypatch.setattr(model, "_step_tokens", step)
    item = pack_item(model, "image", fields)
    batch = arguments(Cpu(), "image", *[(fields, item)] * 20)
    rows = model.embed_multimodal(**batch, **mark_dummies(20, "image"))
    assert list(map(len, selections)) == portions
    assert len(rows) == 20 and all(torch.equal(own, rows[0]) for own in rows)


@pytest.mark.parametrize(
    ("auroc", "warnings"), [(0.1, ["CLIP's polarity is negative by its"]), (0.9, []), (0.5, [])]
)
def test_a_wrong_polarity_of_clip_is_warned_of_once(auroc, warnings, monkeypatch, caplog):
    """From pictures that the tower encodes, before anything else is."""
    encoded = []

    def measure(clip, clip_model, states_of, *sizes):
        encoded.append(states_of(torch.rand(1, 3, 56, 56)).shape)
        assert (clip, clip_model, sizes) == (model.script_clip, "clip", (56, 14))
        return Polarity("negative", auroc, 0.01)

    monkeypatch.setattr(clip_check, "measure_polarity", measure)
    first_rank = SimpleNamespace(is_first_rank=True)
    monkeypatch.setattr(clip_check, "get_tp_group", lambda: first_rank)
    architecture, _, config, (fields, *_) = CASES["LLaVA-NeXT, CLIP"]
    model = model_of(architecture, config, Cpu())
    model._check_clip = clip_check.ClipCheck(model.script_clip, "clip", config)
    item = pack_item(model, "image", fields)
    caplog.clear()
    with caplog.at_level("WARNING", "vllm.script"):
        for _ in range(2):
            model.embed_multimodal(**arguments(Cpu(), "image", (fields, item)))
    assert encoded == [(1, 16, 32)]
    ours = [record.getMessage() for record in caplog.records if record.name == "vllm.script"]
    for message, words in zip(ours, warnings, strict=True):
        assert message.startswith(words)


def test_items_are_observed_one_by_one(qwen):
    """Also those that are selected from together; one is known, one left whole."""
    model, fields, _ = qwen("image")
    items = [pack_item(model, "image", fields, key=key) for key in (b"a", b"b", b"a")]
    model.embed_multimodal(
        **arguments(Cpu(), "image", *((fields, each) for each in [*items, None]))
    )
    observed = model.take_observations()
    assert {name: len(seconds) for name, seconds in observed["seconds"].items()} == {
        "encoder": 2,
        "selection": 3,
    }
    assert len(set(observed["seconds"]["selection"])) == 1
    assert (observed["cache_hits"], observed["cache_misses"]) == (1, 2)


def test_a_selection_of_another_size_names_both_numbers(qwen):
    model, fields, _ = qwen("image")
    item = pack_item(model, "image", fields)
    wrong = replace(item, count=item.count + 1)
    with pytest.raises(RuntimeError, match=f" {item.count} rows .* {item.count + 1} placeholders"):
        model.embed_multimodal(**arguments(Cpu(), "image", (fields, item), (fields, wrong)))


def test_the_watcher_sees_each_explained_item(qwen):
    model, fields, _ = qwen("image")
    item, seen = pack_item(model, "image", fields), []
    model.selection_watcher = lambda name, selection: seen.append((name, len(selection.kept)))
    items = [item, *(replace(item, plan=replace(item.plan, explain_id=name)) for name in "ab")]
    model.embed_multimodal(**arguments(Cpu(), "image", *((fields, each) for each in items)))
    assert seen == [("a", item.count), ("b", item.count)]


@pytest.mark.parametrize(("rows", "right"), [(8, True), (16, False), (7, False), (4, False)])
def test_a_thinned_tower_returns_its_survivors_alone(rows, right):
    """Half of two tiles of eight: a tower that computed all of them is not mistaken for that."""
    left = Survivors(torch.arange(0, 16, 2), 8)
    image = EncodedImage.without_states(torch.zeros(rows, 4), Layout(torch.arange(16)), left)
    if right:
        dummies.check_rows(image)
        return
    with pytest.raises(RuntimeError, match=f"the model returns {rows} rows for an image"):
        dummies.check_rows(image)
