"""The host never waits for the GPU between entry and exit of `embed_multimodal`, nor in positions.

vLLM enqueues a step while the GPU works on the one before; a host that waits ends that. Families
run with their real classes around a stand-in for vLLM's own encoder, on a pretended GPU that knows
which operations wait; on a real one, CUDA itself says so.
"""

from types import SimpleNamespace

import pytest
import torch
from vllm.multimodal.inputs import PlaceholderRange

from vllm_script.budget import even_shares
from vllm_script.layout import Layout
from vllm_script.pruning import MODES, PruningParams, windows
from vllm_script.pruning.thinning import Quota
from vllm_script.worker.encoded_image import EncodedImage
from vllm_script.worker.tower import Thinning, take_of_tiles

from .stand_in import (
    CASES,
    IMAGE,
    TEXT,
    VIDEO,
    Cuda,
    Pretended,
    arguments,
    model_of,
    pack_item,
)

pytest.importorskip("triton", reason="without Triton the reference runs on a GPU, and it waits")

DEFAULTS = PruningParams()


@pytest.fixture(
    params=[
        pytest.param(
            Pretended,
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU"),
        ),
        pytest.param(Cuda, marks=pytest.mark.gpu),
    ]
)
def gpu(request):
    return request.param()


@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, mode) for case in CASES for mode in MODES if "2.5" in case or mode == "script"],
)
def test_embed_multimodal(gpu, case, mode, params=DEFAULTS):
    """New images of several sizes at once, then the same ones from the cache, asked otherwise."""
    architecture, modality, config, items = CASES[case]
    changes = {"mode": mode, "params": params}
    with gpu.running():
        model = model_of(architecture, config, gpu, kernels="triton")
        for query in (3, 9), (4, 5, 9):
            asked = [
                (fields, pack_item(model, modality, fields, query, bytes([place]), **changes))
                for place, fields in enumerate(items)
            ]
            batch = arguments(gpu, modality, *asked)
            if query == (3, 9) and isinstance(gpu, Cuda):
                model.embed_multimodal(**dict(batch))  # compiles
                model.forget_images()
            with gpu.watching():
                rows = model.embed_multimodal(**dict(batch))
            assert list(map(len, rows)) == [item.count for _, item in asked]
        assert model.feature_cache.hits == len(items)


@pytest.mark.parametrize("mode", [mode for mode in MODES if "geometry" in MODES[mode].reads])
def test_centered_geometry(gpu, mode):
    """The image's mean is computed and taken off without a wait, too."""
    test_embed_multimodal(gpu, "LLaVA-NeXT", mode, PruningParams(geometry="centered"))


def test_a_video_in_windows(gpu, monkeypatch):
    """More tokens than are selected from at once."""
    monkeypatch.setattr(windows, "MAX_TOKENS", 40)
    test_embed_multimodal(gpu, "Qwen2.5-VL, video", "script")


@pytest.mark.parametrize("are_frames", [False, True])
def test_a_thinned_tower(gpu, are_frames):
    """Behind its early blocks GSP chooses among three tiles or frames, one of them cut in half."""
    can_be_kept = torch.ones(3, 16, dtype=torch.bool)
    can_be_kept[2, 8:] = are_frames
    layout = Layout(can_be_kept.flatten().nonzero()[:, 0].flip(0))
    thinning = Thinning(layout, Quota(6, can_be_kept, are_frames), 1, "triton")
    cells = torch.arange(64).view(16, 4)
    with gpu.running():
        states = gpu.put(torch.rand(3, 65, 32, generator=torch.Generator().manual_seed(0)))
        with gpu.watching():
            taken = take_of_tiles(thinning, cells, first=1)(states)
            image = EncodedImage.without_states(
                taken[:, 1::4].flatten(0, 1), layout, thinning.survivors
            )
            rows = image.rows_of(image.candidates)
        assert taken.shape == (3, 25, 32) and rows.shape == (18,)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("Qwen")])
def test_positions_are_filled_in(gpu, case):
    """A prompt of text, the item, and text, in two steps that cut the item."""
    architecture, modality, config, (fields, *_) = CASES[case]
    with gpu.running():
        model = model_of(architecture, config, gpu, kernels="triton")
        item = pack_item(model, modality, fields)
        (rows,) = model.embed_multimodal(**arguments(gpu, modality, (fields, item)))
        token = IMAGE if modality == "image" else VIDEO
        runs = model.family.runs(config, modality, fields)
        tokens, is_embed = [TEXT] * 3, []
        for share in even_shares(item.count, len(runs)):
            tokens += [token] * share + [TEXT]
            is_embed += [True] * share + [False]
        tokens += [TEXT] * 2
        where = PlaceholderRange(offset=3, length=len(is_embed), is_embed=torch.tensor(is_embed))
        data = {name: SimpleNamespace(data=value) for name, value in fields.items()}
        feature = SimpleNamespace(mm_position=where, data=data, modality=modality)
        positions, _ = model.get_mrope_input_positions(tokens, [feature])
        on_gpu, token_ids = gpu.put(positions), gpu.put(torch.tensor(tokens))
        half = item.count // 2
        place = [i for i, each in enumerate(tokens) if each == token][half]
        with gpu.watching():
            _, on_gpu, _ = model.recompute_mrope_positions(token_ids, [rows[:half]], on_gpu, 0)
            _, on_gpu, delta = model.recompute_mrope_positions(
                token_ids, [rows[half:]], on_gpu, place
            )
        assert delta is None
        assert not torch.equal(gpu.put(positions).cpu(), on_gpu.cpu())


PLANTED = {
    "a value is read": lambda x: float(x.sum()),
    "a condition is read": lambda x: 1 if x[0] > 0 else 2,
    "values are listed": lambda x: x.tolist(),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from memory that is not pinned": lambda x: torch.ones(3).to(x.device),
    "one that says it need not wait": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "a new tensor of values": lambda x: torch.tensor([1, 2], device=x.device),
    "rows by a mask": lambda x: x[x > 0],
    "the places of a mask": lambda x: (x > 0).nonzero(),
    "values set by a mask of another tensor": lambda x: x.__setitem__(x > 0, x[:1]),
    "repeats": lambda x: x.repeat_interleave((x > 0).long()),
    "distinct values": lambda x: x.unique(),
    "indices of the host": lambda x: x[torch.tensor([0, 1])],
}
"""Ways to wait. `non_blocking` from memory that is not pinned is one that CUDA does not report."""


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_wait_is_found(gpu, name):
    if isinstance(gpu, Cuda) and "need not wait" in name:
        pytest.skip("CUDA does not say so")
    with gpu.running():
        x = gpu.put(torch.arange(4.0))
        with pytest.raises(RuntimeError, match="wait|synchroniz"), gpu.watching():
            PLANTED[name](x)
