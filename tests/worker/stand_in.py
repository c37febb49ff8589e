"""Pruned models of several families without vLLM's engine: stand-ins for its models and devices.

Families run with their real classes around a stand-in for vLLM's own encoder, on the CPU, on a
pretended GPU that knows which operations wait, or on a real one.
"""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import torch
from transformers import CLIPConfig, CLIPModel

from vllm_script.config import ScriptConfig
from vllm_script.families import model_class, pruned_name
from vllm_script.plan import make_plan
from vllm_script.relevance.checkpoint import READ
from vllm_script.relevance.clip import ClipRelevance
from vllm_script.wire import PackedItem, pack
from vllm_script.worker.model import PrunedModel

from ..pretend_gpu import PretendGpu, to_gpu

WIDTH, PIXELS, TEXT, IMAGE, VIDEO = 32, 588, 1, 7, 8
VOCABULARY = 16


class Cpu:
    """This machine's CPU."""

    device = torch.device("cpu")

    @staticmethod
    def put(x):
        return x

    def running(self):
        return torch.no_grad()


class Pretended:
    """The pretended GPU."""

    device = torch.device("cuda")
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

    device = torch.device("cuda")

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


class Projection:
    """Stands in for vLLM's projection to four heads of queries and two of keys and of values."""

    num_heads, num_kv_heads, head_size = 4, 2, WIDTH // 2

    def __init__(self, weight):
        self._weight = weight

    def __call__(self, rows):
        return rows @ self._weight, None


class Stock:
    """Stands in for vLLM's model of any family: every `PIXELS` values become one row."""

    def __init__(self, *, vllm_config, prefix=""):
        hf_config = self.config = vllm_config.model_config.hf_config
        generator = torch.Generator().manual_seed(0)

        def weight(*shape):
            return vllm_config.put(torch.randn(*shape, generator=generator))

        self._tower = weight(PIXELS, WIDTH)
        self._projector = weight(WIDTH, hf_config.width)
        self._table = weight(hf_config.vocab_size, WIDTH)
        self._projection = Projection(weight(WIDTH, 4 * WIDTH))
        self.vision_tower = None

    def get_language_model(self):
        layer = SimpleNamespace(
            input_layernorm=torch.nn.functional.normalize,
            self_attn=SimpleNamespace(qkv_proj=self._projection),
        )
        return SimpleNamespace(
            embed_input_ids=lambda ids: self._table.index_select(0, ids),
            model=SimpleNamespace(layers=[layer]),
        )

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
        **{"width": WIDTH, "vocab_size": VOCABULARY, "text_config": text} | fields,
        get_text_config=lambda: text,
        vllm_script=script,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
    )


def qwen(deepstack, modality, *grids):
    """Fields of a family with M-RoPE: a merged token has 2 x 2 patches of PIXELS / 4 values."""
    config = hf_config(
        "embedding",
        width=WIDTH * (1 + deepstack),
        vision_config=SimpleNamespace(
            spatial_merge_size=2, deepstack_visual_indexes=[1] * deepstack, tokens_per_second=2
        ),
    )
    pixels = "pixel_values" if modality == "image" else "pixel_values_videos"
    items = [
        {
            pixels: torch.rand(frames * height * width, PIXELS // 4),
            f"{modality}_grid_thw": torch.tensor([(frames, height, width)]),
        }
        for frames, height, width in grids
    ]
    return config, items


def llava_next(relevance):
    """Images of five tiles, or three, of 16 patches each."""
    vision = SimpleNamespace(
        model_type="clip_vision_model", image_size=56, patch_size=14, hidden_size=WIDTH
    )
    config = hf_config(
        relevance,
        vision_config=vision,
        image_grid_pinpoints=[[112, 112], [56, 112]],
        vision_feature_layer=-2,
    )
    items = [
        {"pixel_values": torch.rand(1, tiles, 3, 56, 56), "image_sizes": torch.tensor([size])}
        for tiles, size in [(5, (90, 112)), (3, (50, 112))]
    ]
    return config, items


def internvl():
    vision = SimpleNamespace(image_size=56, patch_size=14)
    config = hf_config("embedding", vision_config=vision, downsample_ratio=1.0)
    items = [
        {
            "pixel_values_flat_video": torch.rand(frames, 3, 56, 56),
            "video_num_patches": torch.tensor([frames]),
        }
        for frames in (5, 2)
    ]
    return config, items


IMAGES, VIDEOS = [(1, 16, 20), (1, 6, 4), (1, 6, 10)], [(5, 8, 8), (2, 4, 6)]
CASES = {
    "LLaVA-NeXT, CLIP": ("LlavaNextForConditionalGeneration", "image", *llava_next("clip")),
    "LLaVA-NeXT": ("LlavaNextForConditionalGeneration", "image", *llava_next("embedding")),
    "LLaVA-NeXT, lm-attention": (
        *("LlavaNextForConditionalGeneration", "image"),
        *llava_next("lm-attention"),
    ),
    "Qwen2.5-VL": ("Qwen2_5_VLForConditionalGeneration", "image", *qwen(0, "image", *IMAGES)),
    "Qwen2.5-VL, video": (
        *("Qwen2_5_VLForConditionalGeneration", "video"),
        *qwen(0, "video", *VIDEOS),
    ),
    "Qwen3-VL, video": ("Qwen3VLForConditionalGeneration", "video", *qwen(3, "video", *VIDEOS)),
    "InternVL, video": ("InternVLForConditionalGeneration", "video", *internvl()),
}
"""Architecture, modality, configuration, and the fields of items of several sizes."""


def model_of(architecture, config, machine, **settings):
    """The family's own class, before the stand-in instead of vLLM's model.

    Args:
        machine: a device: Cpu, Pretended or Cuda.
        settings: the plugin's, beside those in `config`.
    """
    pruned = model_class(pruned_name(architecture))
    (ours,) = (base for base in pruned.__bases__ if issubclass(base, PrunedModel))
    own = {name: vars(pruned)[name] for name in ("family", "encode") if name in vars(pruned)}
    model_type = type(pruned.__name__, (ours, Stock), own)
    vllm_config = SimpleNamespace(
        put=machine.put,
        use_v2_model_runner=True,
        is_mm_encoder_only=False,
        model_config=SimpleNamespace(
            hf_config=config,
            vllm_script=config.vllm_script | settings,
            dtype=torch.float32,
            multimodal_config=SimpleNamespace(),
        ),
        device_config=SimpleNamespace(device=machine.device),
        kv_transfer_config=None,
        parallel_config=SimpleNamespace(pipeline_parallel_size=1),
        scheduler_config=SimpleNamespace(max_num_scheduled_tokens=None, max_num_batched_tokens=512),
    )
    first_rank = SimpleNamespace(is_first_rank=True)
    with (
        mock.patch("vllm_script.worker.model.get_pp_group", lambda: first_rank),
        mock.patch("vllm_script.worker.model.on_encoder_cache_reset"),
        mock.patch("vllm_script.worker.model.tensor_model_parallel_all_reduce", lambda x: x),
        mock.patch("vllm_script.families.mrope.ask_for_position_channels"),
        mock.patch("vllm_script.worker.model.compile_kernels") as compile_kernels,
    ):
        model = model_type(vllm_config=vllm_config)
    backend = settings.get("kernels", "auto")
    compile_kernels.assert_called_once_with(
        WIDTH, config.width, None, torch.float32, machine.device, backend, None
    )
    if ScriptConfig.of(config).relevance == "clip":
        model.script_clip = model.selector._clip = clip(machine, backend, config.vocab_size)
        model.script_clip.check()  # which vLLM's dummy brings about at start-up, with its polarity
    return model


def clip(machine, backend, vocab_size=VOCABULARY):
    """A CLIP of one layer with random weights, on that machine."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "num_hidden_layers": 1, "vocab_size": vocab_size, "eos_token_id": 9},
        vision_config={**sizes, "num_hidden_layers": 1},
        projection_dim=16,
    )
    weights = {n: w for n, w in CLIPModel(config).state_dict().items() if n.startswith(READ)}
    relevance = ClipRelevance(config, weights, torch.float32, "cpu", backend)
    for module in relevance.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = machine.put(buffer)
    return relevance


def pack_item(model, modality, fields, query=(3, 9), key=b"", **changes):
    """What the worker is told of an item, with these changes of the server's settings."""
    plan = make_plan(replace(ScriptConfig.of(model.config), **changes), ((query,),))
    layout = model.family.item_layout(model.config, modality, fields)
    return PackedItem(plan, plan.num_kept(*layout.counts), layout.num_placeholders, key)


def arguments(machine, modality, *items):
    """Arguments of `embed_multimodal` for items of (fields, PackedItem or None to leave it whole).

    They are batched as vLLM does it; only pixels are on the GPU.
    """
    batch = {}
    for fields, item in items:
        for name, value in fields.items():
            batch.setdefault(name, []).append(value)
        for name, value in pack(item, modality).items():
            batch.setdefault(name, []).append(value)

    def one(name, values):
        if name.startswith("script"):
            return values
        if (
            name == "pixel_values" and values[0].dim() == 5
        ):  # tiles, of which images have not equally many
            return [machine.put(value[0]) for value in values]
        values = torch.cat(values)
        return machine.put(values) if name.startswith("pixel") else values

    return {name: one(name, values) for name, values in batch.items()}
