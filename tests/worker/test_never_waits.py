"""The host never waits for the GPU between entry and exit of `embed_multimodal`, nor in positions.

vLLM enqueues a step while the GPU works on the one before; a host that waits ends that. Families
run with their real classes around a stand-in for vLLM's own encoder, on a pretended GPU that knows
which operations wait; on a real one, CUDA itself says so.
"""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from transformers import CLIPConfig, CLIPModel
from vllm.multimodal.inputs import PlaceholderRange

from vllm_script.budget import even_shares
from vllm_script.config import ScriptConfig
from vllm_script.families import model_class, pruned_name
from vllm_script.plan import make_plan
from vllm_script.pruning import MODES, windows
from vllm_script.relevance.checkpoint import READ
from vllm_script.relevance.clip import ClipRelevance
from vllm_script.wire import PackedItem, pack
from vllm_script.worker.model import PrunedModel

from ..pretend_gpu import PretendGpu, to_gpu

pytest.importorskip("triton", reason="without Triton the reference runs on a GPU, and it waits")

WIDTH, PIXELS, TEXT, IMAGE, VIDEO = 32, 588, 1, 7, 8


class Pretended:
    """The pretended GPU."""

    put = staticmethod(to_gpu)

    def __init__(self):
        self._gpu = PretendGpu()

    def running(self):
        return self._gpu.running()

    @contextmanager
    def watching(self):
        self._gpu.waits.clear()
        yield
        waits, self._gpu.waits = self._gpu.waits, []
        if waits:
            raise RuntimeError(f"the host waits: {waits}")


class Cuda:
    """A real GPU."""

    @staticmethod
    def put(x):
        return x.cuda()

    @contextmanager
    def running(self):
        with torch.no_grad():
            yield

    @contextmanager
    def watching(self):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


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


class Stock:
    """Stands in for vLLM's model of any family: every `PIXELS` values become one row."""

    def __init__(self, *, vllm_config, prefix=""):
        hf_config = self.config = vllm_config.model_config.hf_config
        generator = torch.Generator().manual_seed(0)

        def weight(*shape):
            return vllm_config.put(torch.randn(*shape, generator=generator))

        self._tower = weight(PIXELS, WIDTH)
        self._projector = weight(WIDTH, hf_config.width)
        self._table = weight(16, WIDTH)
        self.vision_tower = None

    def get_language_model(self):
        return SimpleNamespace(embed_input_ids=lambda ids: self._table.index_select(0, ids))

    def multi_modal_projector(self, states):
        return states @ self._projector

    def embed_multimodal(self, **fields):
        (pixels,) = (value for name, value in fields.items() if name.startswith("pixel"))
        return [pixels.reshape(-1, PIXELS) @ self._tower @ self._projector]

    def _parse_and_validate_image_input(self, **fields):
        return fields

    def _image_pixels_to_features(self, tower, tiles):
        return tiles.reshape(len(tiles), -1, PIXELS) @ self._tower


def hf_config(relevance, **fields):
    text = SimpleNamespace(hidden_size=WIDTH)
    script = ScriptConfig(keep_ratio=0.25, relevance=relevance, cache_gb=1.0).to_dict()
    return SimpleNamespace(
        **{"width": WIDTH, "get_text_config": lambda: text, "text_config": text, **fields},
        vllm_script=script,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )


def qwen(deepstack, modality, grid):
    """Fields of a family with M-RoPE: a merged token has 2 x 2 patches of PIXELS / 4 values."""
    frames, height, width = grid
    config = hf_config(
        "embedding",
        width=WIDTH * (1 + deepstack),
        vision_config=SimpleNamespace(
            spatial_merge_size=2, deepstack_visual_indexes=[1] * deepstack, tokens_per_second=2
        ),
    )
    pixels = "pixel_values" if modality == "image" else "pixel_values_videos"
    fields = {
        pixels: torch.rand(frames * height * width, PIXELS // 4),
        f"{modality}_grid_thw": torch.tensor([grid]),
    }
    return config, fields


def llava_next(relevance):
    vision = SimpleNamespace(image_size=56, patch_size=14, hidden_size=WIDTH)
    config = hf_config(
        relevance,
        vision_config=vision,
        image_grid_pinpoints=[[112, 112]],
        vision_feature_layer=-2,
    )
    fields = {"pixel_values": torch.rand(1, 5, 3, 56, 56), "image_sizes": torch.tensor([[90, 112]])}
    return config, fields


def internvl():
    vision = SimpleNamespace(image_size=56, patch_size=14)
    config = hf_config("embedding", vision_config=vision, downsample_ratio=1.0)
    fields = {
        "pixel_values_flat_video": torch.rand(5, 3, 56, 56),
        "video_num_patches": torch.tensor([5]),
    }
    return config, fields


CASES = {
    "LLaVA-NeXT, CLIP": ("LlavaNextForConditionalGeneration", "image", llava_next("clip")),
    "LLaVA-NeXT": ("LlavaNextForConditionalGeneration", "image", llava_next("embedding")),
    "Qwen2.5-VL": (
        "Qwen2_5_VLForConditionalGeneration",
        "image",
        qwen(0, "image", (1, 16, 20)),
    ),
    "Qwen2.5-VL, video": (
        "Qwen2_5_VLForConditionalGeneration",
        "video",
        qwen(0, "video", (5, 8, 8)),
    ),
    "Qwen3-VL, video": ("Qwen3VLForConditionalGeneration", "video", qwen(3, "video", (5, 8, 8))),
    "InternVL, video": ("InternVLForConditionalGeneration", "video", internvl()),
}


def model_of(architecture, config, gpu):
    """The family's own class, before the stand-in instead of vLLM's model."""
    pruned = model_class(pruned_name(architecture))
    (ours,) = (base for base in pruned.__bases__ if issubclass(base, PrunedModel))
    own = {name: vars(pruned)[name] for name in ("family", "encode") if name in vars(pruned)}
    model_type = type(pruned.__name__, (ours, Stock), own)
    vllm_config = SimpleNamespace(
        put=gpu.put,
        use_v2_model_runner=True,
        model_config=SimpleNamespace(
            hf_config=config,
            vllm_script=config.vllm_script,
            dtype=torch.float32,
            multimodal_config=SimpleNamespace(),
        ),
        device_config=SimpleNamespace(device=torch.device("cuda")),
    )
    first_rank = SimpleNamespace(is_first_rank=True)
    with (
        mock.patch("vllm_script.worker.model.get_pp_group", lambda: first_rank),
        mock.patch("vllm_script.worker.model.on_encoder_cache_reset"),
        mock.patch("vllm_script.families.mrope.ask_for_position_channels"),
        mock.patch("vllm_script.worker.model.compile_kernels") as compile_kernels,
    ):
        model = model_type(vllm_config=vllm_config)
    dtype, device = torch.float32, torch.device("cuda")
    compile_kernels.assert_called_once_with(WIDTH, config.width, None, dtype, device)
    if ScriptConfig.of(config).relevance == "clip":
        model.script_clip = model.selector._clip = clip(gpu)
        model._check_clip()  # which vLLM's dummy brings about at start-up
    return model


def clip(gpu):
    """A CLIP of one layer with random weights, on the GPU."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "num_hidden_layers": 1, "vocab_size": 16, "eos_token_id": 9},
        vision_config={**sizes, "num_hidden_layers": 1},
        projection_dim=16,
    )
    weights = {n: w for n, w in CLIPModel(config).state_dict().items() if n.startswith(READ)}
    relevance = ClipRelevance(config, weights, torch.float32, "cpu")
    for module in relevance.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = gpu.put(buffer)
    return relevance


def asked(model, fields, modality, mode, query):
    """How many rows stay, and the arguments of `embed_multimodal`: only pixels are on the GPU."""
    config = replace(ScriptConfig.of(model.config), mode=mode)
    layout = model.family.item_layout(model.config, modality, fields)
    plan = make_plan(config, (query,))
    item = PackedItem(plan, plan.num_kept(*layout.counts), len(layout.rows), b"key of the image")
    ours = {name: value[None] for name, value in pack(item, modality).items()}
    return item.count, fields | ours


@pytest.mark.parametrize(
    ("case", "mode"),
    [(case, mode) for case in CASES for mode in MODES if "2.5" in case or mode == "script"],
)
def test_embed_multimodal(gpu, case, mode):
    """A new image, then the same one from the cache about a new question."""
    architecture, modality, (config, fields) = CASES[case]
    fields = {
        name: gpu.put(value) if name.startswith("pixel") else value
        for name, value in fields.items()
    }
    with gpu.running():
        model = model_of(architecture, config, gpu)
        for query in (3, 9), (4, 5, 9):
            count, arguments = asked(model, fields, modality, mode, query)
            if query == (3, 9) and isinstance(gpu, Cuda):
                model.embed_multimodal(**dict(arguments))  # compiles
                model.forget_images()
            with gpu.watching():
                (rows,) = model.embed_multimodal(**dict(arguments))
            assert len(rows) == count
        assert model.feature_cache.hits > 0


def test_a_video_in_windows(gpu, monkeypatch):
    """More tokens than are selected from at once."""
    monkeypatch.setattr(windows, "MAX_TOKENS", 40)
    test_embed_multimodal(gpu, "Qwen2.5-VL, video", "script")


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("Qwen")])
def test_positions_are_filled_in(gpu, case):
    """A prompt of text, the item, and text, in two steps that cut the item."""
    architecture, modality, (config, fields) = CASES[case]
    pixels = {n: gpu.put(v) for n, v in fields.items() if n.startswith("pixel")}
    with gpu.running():
        model = model_of(architecture, config, gpu)
        count, arguments = asked(model, fields | pixels, modality, "script", (3, 9))
        (rows,) = model.embed_multimodal(**arguments)
        token = IMAGE if modality == "image" else VIDEO
        runs = model.family.runs(config, modality, fields)
        tokens, is_embed = [TEXT] * 3, []
        for share in even_shares(count, len(runs)):
            tokens += [token] * share + [TEXT]
            is_embed += [True] * share + [False]
        tokens += [TEXT] * 2
        where = PlaceholderRange(offset=3, length=len(is_embed), is_embed=torch.tensor(is_embed))
        data = {name: SimpleNamespace(data=value) for name, value in fields.items()}
        feature = SimpleNamespace(mm_position=where, data=data, modality=modality)
        positions, _ = model.get_mrope_input_positions(tokens, [feature])
        on_gpu, token_ids = gpu.put(positions), gpu.put(torch.tensor(tokens))
        half = count // 2
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
