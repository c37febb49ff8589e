"""Rows of a thinned vision tower, of vLLM's own weights and code, against transformers'.

The reference runs transformers' tower whole: behind the early block attention is kept from the
patches that are dropped, and the rows of the others are read. Which these are GSP says of its own
states there, so it shares nothing with ours but GSP. Towers have four layers, so that Qwen2.5-VL's
windows lie on both sides.
"""

from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from transformers import AttentionInterface, AutoModelForImageTextToText
from transformers.vision_utils import get_vision_window_index
from vllm.config import set_current_vllm_config
from vllm.distributed import (
    init_distributed_environment,
    initialize_model_parallel,
    model_parallel_is_initialized,
)
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import get_model
from vllm.renderers import renderer_from_config

from vllm_script.benchmarks.checkpoints import SIZES, write
from vllm_script.config import ScriptConfig
from vllm_script.plan import make_plan
from vllm_script.pruning.thinning import Quota, survivors
from vllm_script.wire import mark_dummies, pack, unpack
from vllm_script.worker.dummies import thin_one

from .conftest import film, picture
from .reference import SAME_WEIGHTS, _normalised

LAYERS, LAYER = 4, 1
BLOCKS = ("blocks", "encoder.layers", "encoder.layer")
THOROUGH = ("llava-next", "qwen2.5-vl")
FAMILIES = [
    *("llava-next", "llava-1.5", "qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen3.5"),
    *("internvl", "internvl-chat", "glm4.1v"),
]


@pytest.fixture(
    scope="module",
    params=[
        name if name in THOROUGH else pytest.param(name, marks=pytest.mark.slow)
        for name in FAMILIES
    ],
)
def loaded(request, tmp_path_factory):
    """The family's pruned model, the renderer of its prompts, and transformers' model."""
    family = request.param
    folders = {}
    for name in {family, SAME_WEIGHTS.get(family, family)}:
        tiny = SIZES[name]["tiny"]
        deep = replace(tiny, vision=tiny.vision._replace(layers=LAYERS))
        folders[name] = tmp_path_factory.mktemp("deep") / name
        with mock.patch.dict(SIZES[name], deep=deep):
            write(folders[name], name, "deep")
    config = EngineArgs(
        str(folders[family]),
        additional_config={"script": {"tower_keep": 0.5}},
        trust_remote_code=family.endswith("-chat"),  # for its configuration
        dtype="float32",
        max_model_len=1024,
        enforce_eager=True,
    ).create_engine_config()
    with set_current_vllm_config(config):
        if not model_parallel_is_initialized():
            store = tmp_path_factory.mktemp("ranks") / "store"
            init_distributed_environment(1, 0, f"file://{store}", 0, "gloo")
            initialize_model_parallel(1)
        with mock.patch("torch.accelerator.empty_cache"):  # vLLM's CPU worker replaces it, too
            model = get_model(vllm_config=config)
    theirs = AutoModelForImageTextToText.from_pretrained(
        folders[SAME_WEIGHTS.get(family, family)], dtype=torch.float32
    ).eval()
    return SimpleNamespace(
        family=family, model=model, renderer=renderer_from_config(config), theirs=theirs.model
    )


def rendered(loaded, modality, item, **script):
    """A prompt with an item, as vLLM sends it to the engine, under a request's settings."""
    processor = loaded.renderer.get_mm_processor()
    text = processor.family.placeholder(processor.info, modality)
    prompt = {"prompt": f"Look: {text} What?", "multi_modal_data": {modality: [item]}}
    prompt["mm_processor_kwargs"] = {"script": script}
    (result,) = loaded.renderer.render_cmpl([prompt], skip_mm_cache=True)
    return result


def batched(*items):
    """What the model is given of vLLM's fields of some items."""
    return {
        name: element.field.reduce_data([item[name] for item in items])
        for name, element in items[0].items()
    }


def fields_of(loaded, modality, item):
    """What the model is given of an item that is left whole."""
    (fields,) = rendered(loaded, modality, item, keep_ratio=1.0)["mm_kwargs"][modality]
    return {k: v for k, v in batched(fields).items() if not k.startswith("script")}


def reference_rows(theirs, fields, modality, choose):
    """Survivors, and rows of all visual tokens, in encoder order; right where they are survivors.

    Args:
        choose: survivors of states [tiles or frames, visual tokens, H] before the block `LAYER`.
    """
    tower = getattr(theirs, "visual", None) or theirs.vision_tower
    path = next(path for path in BLOCKS if _has(tower, path))
    numbers = {
        module: number
        for number, block in enumerate(tower.get_submodule(path))
        for module in block.modules()
    }
    (pixels,) = (value for name, value in fields.items() if name.startswith("pixel"))
    grid = fields.get(f"{modality}_grid_thw")
    is_tiles, order, cells = grid is None, None, None
    if is_tiles:
        vision = tower.config
        size, patch = (
            x[0] if isinstance(x, (tuple, list)) else x
            for x in (vision.image_size, vision.patch_size)
        )
        cells = _cells(size // patch, round(1 / getattr(theirs.config, "downsample_ratio", 1)))
    else:
        frames, *sides = grid[0].tolist()
        order = torch.arange(int(grid.prod()) // 4)
        if hasattr(tower.config, "fullatt_block_indexes"):
            order = get_vision_window_index(grid, 2, tower.config.window_size, tower.patch_size)[0]
        if tower.config.model_type.startswith("glm"):  # to which frames are images
            grid = torch.tensor([[1, *sides]] * frames)
    found, read = {}, {}  # survivors and what attention may read; patches it has read, by block

    def look(module, args, kwargs):
        whole = args[0] if args else kwargs["hidden_states"]
        if is_tiles:
            states = whole[:, -len(cells) :]  # without a class token
            order_of_tokens = cells.argsort(stable=True)
            tokens = oddest(states[:, order_of_tokens].unflatten(1, (int(cells.max()) + 1, -1)))
        else:
            patches = whole.view(len(order), 4, -1)[order.argsort()]
            tokens = oddest(patches.view(frames, -1, *patches.shape[1:]))
        found["survivors"] = choose(tokens).flatten()
        is_left = torch.zeros(tokens.shape[0] * tokens.shape[1], dtype=torch.bool)
        is_left[found["survivors"]] = True
        if is_tiles:
            left = is_left.view(len(tokens), -1)[:, cells]
            before = torch.ones(len(tokens), whole.shape[1] - len(cells), dtype=torch.bool)
            found["left"] = torch.cat([before, left], dim=1).flatten()
        else:
            found["left"] = is_left[order].repeat_interleave(4)

    def attention(module, query, key, value, attention_mask, scaling, **_):
        number = numbers[module]
        scores = query @ key.transpose(2, 3) * scaling  # [tiles or one sequence, heads, n, n]
        if number >= LAYER:
            tiles, length = key.shape[0], key.shape[2]
            start = read.get(number, 0)
            seen = found["left"][start : start + tiles * length].view(tiles, 1, 1, length)
            read[number] = start + tiles * length
            scores = scores.masked_fill(~seen, -1e30)
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    AttentionInterface.register("without_dropped", attention)
    tower.config._attn_implementation = "without_dropped"
    block = tower.get_submodule(path)[LAYER]
    handles = [block.register_forward_pre_hook(look, with_kwargs=True)]
    if is_tiles:
        rows = []
        projector = theirs.multi_modal_projector
        handles.append(projector.register_forward_hook(lambda *args: rows.append(args[2])))
        more = {k: v for k, v in fields.items() if k == "image_sizes"}
        tiles = pixels.view(-1, *pixels.shape[-3:])
        theirs.get_image_features(pixel_values=tiles, **more)
        rows = rows[0].flatten(0, 1)
    else:
        output = tower(_normalised(pixels), grid_thw=grid)
        levels = getattr(output, "deepstack_features", None) or []
        rows = torch.cat([output.pooler_output, *levels], dim=1)
    for handle in handles:
        handle.remove()
    return found["survivors"], rows


def oddest(patches):
    """Of each visual token the patch that is least like all of its tile, [tiles, tokens, H]."""
    directions = patches.double() / patches.double().norm(dim=3, keepdim=True)
    likeness = (directions * directions.sum((1, 2))[:, None, None]).sum(3)
    return torch.stack(
        [
            own[torch.arange(len(own)), rows]
            for own, rows in zip(patches, likeness.argmin(2), strict=True)
        ]
    )


def _has(module, path):
    try:
        module.get_submodule(path)
    except AttributeError:
        return False
    return True


def _cells(side, merge):
    """The visual token that each patch of a tile belongs to."""
    rows = torch.arange(side) // merge
    return (rows[:, None] * (side // merge) + rows).flatten()


def plan_of(keep, layer=0.25):
    return make_plan(
        ScriptConfig(keep_ratio=0.1, relevance="none", tower_keep=keep, tower_layer=layer), ()
    )


@torch.no_grad()
@pytest.mark.parametrize("keep", [0.5, 0.3])
@pytest.mark.parametrize("item", [(168, 168), (300, 100), 5], ids=["square", "wide", "video"])
def test_rows_of_survivors_are_those_of_transformers(loaded, item, keep):
    modality = "video" if item == 5 else "image"
    if modality not in loaded.model.family.modalities:
        pytest.skip("vLLM takes no videos for this family; other tests run for it")
    content = film(0, item) if modality == "video" else picture(0, *item)
    fields = fields_of(loaded, modality, content)
    model = loaded.model
    thinning = model.thinning_of(modality, fields, plan_of(keep))
    assert thinning.num_early_blocks == LAYER
    assert thinning.quota.are_frames == (modality == "video")
    image = model.encode(modality, fields, thinning)
    whole = model.encode(modality, fields)
    chosen, expected = reference_rows(
        loaded.theirs, fields, modality, lambda tokens: survivors(tokens, thinning.quota)
    )
    assert torch.equal(image.survivors.patches, chosen)
    patches = image.candidates
    assert len(patches) == thinning.quota.num_left and torch.isin(patches, chosen).all()
    found = image.features[image.rows_of(patches)]
    torch.testing.assert_close(found, expected[patches], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, whole.features[patches], atol=1e-2)
    assert len(image.features) < 0.56 * len(whole.features) + 2


@torch.no_grad()
def test_ranks_are_compared_when_memory_is_profiled(loaded):
    """Whatever the server keeps by default; as are what is left and what the layout says of it."""
    model, fields = loaded.model, fields_of(loaded, "image", picture(0, 300, 100))
    image = model.encode("image", fields, model.thinning_of("image", fields, plan_of(0.5)))
    with mock.patch("vllm_script.worker.dummies.check_ranks_agree") as agree:
        model.embed_multimodal(**fields, **mark_dummies(1, "image"))
    assert torch.equal(agree.call_args_list[0].args[0], image.survivors.patches)
    with (
        mock.patch.object(Quota, "num_left", 10),
        pytest.raises(RuntimeError, match="this plugin does not know this model"),
    ):
        thin_one(model, model._script_config, "image", fields)


@torch.no_grad()
def test_a_request_from_prompt_to_rows(loaded):
    """Counts are those of the whole tower; rows are the same alone, in a step, and from the cache.

    Different towers have different identifiers and nothing in common in the cache.
    """
    model, pictures = loaded.model, [picture(1, 300, 100), picture(2, 168, 168)]
    asked = [{"keep_ratio": 0.2}, {"keep_ratio": 0.2, "tower_keep": 1.0}, {"keep_ratio": 0.8}]
    prompts = [rendered(loaded, "image", each, **how) for each in pictures for how in asked]
    items = [prompt["mm_kwargs"]["image"][0] for prompt in prompts]
    counts = [prompt["mm_placeholders"]["image"][0].get_num_embeds() for prompt in prompts]
    assert counts[0] == counts[1] < counts[2] and counts[3] == counts[4] < counts[5]
    assert len({prompt["mm_hashes"]["image"][0] for prompt in prompts}) == len(prompts)
    model.take_observations()
    together = model.embed_multimodal(**batched(*items))
    dropped = [model.take_observations()["tower_dropped"]]
    again = [model.embed_multimodal(**batched(item))[0] for item in items]
    observed = model.take_observations()
    # The same whole tower serves the last two of each picture.
    assert (observed["cache_hits"], observed["tower_dropped"]) == (len(items), 0)
    model.forget_images()
    alone = []
    for item in items:
        alone += model.embed_multimodal(**batched(item))
        dropped.append(model.take_observations()["tower_dropped"])
    assert dropped[0] == dropped[1] + dropped[4] > 0 and sum(dropped[2:4] + dropped[5:]) == 0
    for rows, count, *others in zip(alone, counts, together, again, strict=True):
        assert len(rows) == count and all(torch.equal(rows, other) for other in others)
    assert not torch.equal(alone[0], alone[1]) and not torch.equal(alone[3], alone[4])


@torch.no_grad()
@pytest.mark.parametrize("relevance", ["auto", "embedding"])
def test_what_is_kept_and_scored_is_among_the_survivors(loaded, relevance):
    """The sources of relevance read what the thinned tower says of them; with CLIP, its states."""
    model, selections = loaded.model, []
    prompt = rendered(loaded, "image", picture(3), keep_ratio=0.3, relevance=relevance)
    fields = batched(prompt["mm_kwargs"]["image"][0])
    (item,) = unpack(fields, "image")
    explained = replace(item, plan=replace(item.plan, explain_id="a"))
    packed = {name: [value] for name, value in pack(explained, "image").items()}
    model.selection_watcher = lambda name, selection: selections.append(selection)
    model.embed_multimodal(**fields, **packed)
    model.selection_watcher = None
    (selection,) = selections
    thinning = model.thinning_of("image", fields, item.plan)
    image = model.encode("image", fields, thinning)
    assert torch.equal(selection.candidates, image.candidates)
    assert torch.isin(selection.kept, selection.candidates).all()
    assert len(selection.kept) == item.count
    rows = image.rows_of(image.candidates)
    source = {"embedding": "embedding", "auto": "clip" if model.script_clip else "none"}
    assert item.plan.relevance == source[relevance]
    if item.plan.relevance == "none":
        assert selection.relevance is None
    elif item.plan.relevance == "clip":
        expected = model.script_clip(image.states[rows], item.plan.query)
        assert torch.equal(selection.relevance, expected)
    else:
        assert selection.relevance.shape == rows.shape
