"""vLLM's scheduler lets as much encoder work into a step as it would without pruning."""

import itertools
import random

import pytest
import torch
from safetensors.torch import save
from vllm.config import ECTransferConfig, VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.multimodal.inputs import (
    MultiModalFeatureSpec,
    MultiModalFieldElem,
    MultiModalKwargsItem,
    PlaceholderRange,
)
from vllm.sampling_params import SamplingParams
from vllm.v1.core.encoder_cache_manager import EncoderCacheManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from vllm_script.config import ScriptConfig
from vllm_script.plan import make_plan
from vllm_script.wire import PackedItem, field_configs, pack, total_alone
from vllm_script.worker.encoder_work import ScriptEncoderCacheManager
from vllm_script.worker.row_folder import ROWS, RowFolder

BUDGET = 600
"""Tokens of a step."""
LARGEST = 6000
"""Tokens of a video that stock has room for, which then is its budget of encoder work."""
CONTEXT = 4096


def config_of(model, **flags) -> VllmConfig:
    args = AsyncEngineArgs(
        str(model),
        additional_config={"script": {}},
        max_num_batched_tokens=BUDGET,
        max_num_seqs=64,
        max_model_len=CONTEXT,
        block_size=16,
        enable_prefix_caching=False,
        **flags,
    )
    config = args.create_engine_config()
    config.cache_config.num_gpu_blocks = 4096
    return config


@pytest.fixture(scope="module")
def config(checkpoint) -> VllmConfig:
    return config_of(checkpoint("llava-1.5"))


@pytest.fixture(params=[Scheduler, AsyncScheduler])
def make_scheduler(config, request):
    """A scheduler as the engine makes it; both model runners have these two."""
    spec = FullAttentionSpec(block_size=16, num_kv_heads=1, head_size=1, dtype=torch.float32)
    caches = KVCacheConfig(4096, [], [KVCacheGroupSpec(["layer"], spec)])

    def make(config=config):
        made = request.param(config, caches, StructuredOutputManager(config), block_size=16)
        assert isinstance(made.encoder_cache_manager, ScriptEncoderCacheManager)
        assert made.max_num_encoder_input_tokens == BUDGET
        return made

    return make


@pytest.fixture(params=[BUDGET, LARGEST])
def scheduler(make_scheduler, request):
    """One whose budget of encoder work is that of a step's tokens, or one for large videos."""
    made = make_scheduler()
    made.max_num_encoder_input_tokens = request.param
    return made


names = map(str, itertools.count())


def fields_of(kept, total):
    """What an item's fields say to the scheduler; nothing of one that is whole."""
    if kept == total:
        return {}
    plan = make_plan(ScriptConfig(visual_token_budget=kept), ())
    packed = pack(PackedItem(plan, kept, total, b""), "image")
    configs = field_configs(["image"])
    return {n: MultiModalFieldElem(data=d, field=configs[n].field) for n, d in packed.items()}


def request_of(items, fields=None):
    """A request of these items, (kept, total) each, with three tokens of text before every one."""
    features, length = [], 0
    for kept, total in items:
        data = MultiModalKwargsItem(fields or fields_of(kept, total))
        place = PlaceholderRange(length + 3, kept)
        features.append(MultiModalFeatureSpec(data, "image", next(names), place))
        length += 3 + kept
    params = SamplingParams(max_tokens=1)
    params.update_from_generation_config({}, eos_token_id=0)
    return Request(next(names), [1] * (length + 1), params, None, mm_features=features)


def steps(scheduler, requests):
    """(request, item) of what each step encodes, until nothing is left."""
    for request in requests:
        scheduler.add_request(request)
    while scheduler.requests:
        output = scheduler.schedule()
        assert output.num_scheduled_tokens, "the scheduler makes no progress"
        encoded = output.scheduled_encoder_inputs
        yield [(name, index) for name in encoded for index in encoded[name]]
        scheduler.update_from_output(output, answers(scheduler, output))


def answers(scheduler, output):
    """What a worker returns of a step: a token of every request whose prompt is read."""
    names = list(output.num_scheduled_tokens)
    requests = [scheduler.requests[name] for name in names]
    read = [request.num_computed_tokens >= request.num_prompt_tokens for request in requests]
    order = {name: index for index, name in enumerate(names)}
    return ModelRunnerOutput(names, order, [[1] if done else [] for done in read])


def work_of(scheduler, requests, items):
    """Tokens before pruning that each step encodes, of requests of these items."""
    totals = {
        (request.request_id, index): total
        for request, own in zip(requests, items, strict=True)
        for index, (_, total) in enumerate(own)
    }
    encoded = list(steps(scheduler, requests))
    assert sorted(sum(encoded, [])) == sorted(totals)  # each once
    return [[totals[key] for key in step] for step in encoded if step]


@pytest.mark.parametrize("keep_ratio", [0.01, 0.11, 0.5, 0.9])
def test_a_step_takes_what_stock_would_let_in(scheduler, keep_ratio):
    """In tokens before pruning: the budget, or one item that is larger."""
    rng = random.Random(keep_ratio)
    pairs = [(max(1, round(size * keep_ratio)), size) for size in (40, 100, 250, 590, 900)]
    pairs = [pair for pair in pairs if pair[0] <= BUDGET]  # else vLLM refuses the request
    items = [[rng.choice(pairs) for _ in range(4)] for _ in range(12)]
    work = work_of(scheduler, [request_of(own) for own in items], items)
    assert all(sum(step) <= BUDGET or len(step) == 1 for step in work)
    assert max(map(len, work)) > 1


@pytest.mark.parametrize("budget", [BUDGET, LARGEST])
def test_without_pruned_items_steps_are_stocks(make_scheduler, budget):
    rng = random.Random(0)
    items = [[(size, size) for size in rng.choices((40, 100, 250, 590), k=4)] for _ in range(12)]
    seen = []
    for manager in (ScriptEncoderCacheManager(budget, BUDGET), EncoderCacheManager(budget)):
        scheduler = make_scheduler()
        scheduler.max_num_encoder_input_tokens = budget
        scheduler.encoder_cache_manager = manager
        seen.append(work_of(scheduler, [request_of(own) for own in items], items))
    assert seen[0] == seen[1]
    assert budget == BUDGET or max(map(sum, seen[0])) > BUDGET  # by an item that is begun


def test_ratios_are_the_requests_own(scheduler):
    items = [[(2, 200)], [(200, 200)], [(100, 200)], [(20, 200)], [(1, 100)]] * 3
    work = work_of(scheduler, [request_of(own) for own in items], items)
    assert all(sum(step) <= BUDGET for step in work)
    assert max(map(sum, work)) == BUDGET


def test_a_full_step_is_full(scheduler):
    items = [[(10, 200)]] * 6
    work = work_of(scheduler, [request_of(own) for own in items], items)
    assert work == [[200] * 3] * 2


def test_where_items_are_not_cut(scheduler, monkeypatch):
    """With --disable-chunked-mm-input an item's placeholders come in one step."""
    monkeypatch.setattr(scheduler.scheduler_config, "disable_chunked_mm_input", True)
    items = [[(90, 250), (250, 250), (400, 5000)]] * 4
    work = work_of(scheduler, [request_of(own) for own in items], items)
    assert all(sum(step) <= BUDGET or len(step) == 1 for step in work)


def test_an_item_larger_than_the_budget_is_not_starved(scheduler):
    """It takes the first step in which it comes first, and that step takes no other."""
    items = [[(10, 500)], [(50, 5000)], [(10, 500)], [(50, 5000)]]
    work = work_of(scheduler, [request_of(own) for own in items], items)
    assert work == [[500], [5000], [500], [5000]]


def test_an_item_of_unknown_size_is_encoded_alone(scheduler):
    items = [[(10, 100)], [(10, 10)], [(10, 100)]]
    requests = [
        request_of(own, total_alone(None, "image") if own[0][1] == 10 else None) for own in items
    ]
    assert work_of(scheduler, requests, items) == [[100, 100], [10]]


def test_items_in_the_encoder_cache_cost_nothing(scheduler):
    """And their rows take the space of their placeholders, not of what they were."""
    first = request_of([(10, 500)])
    others = [request_of([(10, 500)]) for _ in range(3)]
    for request in others:
        request.mm_features = first.mm_features
    (encoded, *rest) = steps(scheduler, [first, *others])
    assert encoded == [(first.request_id, 0)] and not any(rest)
    manager = scheduler.encoder_cache_manager
    assert manager.cache_size - manager.num_free_slots == 10


def test_items_that_an_encoder_instance_has_encoded_cost_nothing(
    make_scheduler, checkpoint, tmp_path
):
    """Neither before the others of the step nor behind them."""
    transfer = ECTransferConfig(
        ec_connector="ECExampleConnector",
        ec_role="ec_consumer",
        ec_connector_extra_config={"shared_storage_path": str(tmp_path)},
    )
    config = config_of(checkpoint("llava-1.5"), ec_transfer_config=transfer)
    there, missing = (10, 500), (10, 200)
    items = [[there, missing], [there, (10, 5000), missing], [missing]]
    requests = [request_of(own) for own in items]
    folder = RowFolder(config)
    for request, own in zip(requests, items, strict=True):
        for feature, item in zip(request.mm_features, own, strict=True):
            if item != missing:
                folder.path(feature.identifier).write_bytes(save({ROWS: torch.zeros(10, 1)}))
    (first, *rest) = steps(make_scheduler(config), requests)
    places = [(0, 1), (1, 2), (2, 0)]
    assert first == [(requests[number].request_id, index) for number, index in places]
    assert not any(rest)


def test_a_full_step_takes_what_is_not_encoded():
    there, full = request_of([(10, 500)]), request_of([(10, BUDGET)])
    has_rows = {there.mm_features[0].identifier}.__contains__
    manager = ScriptEncoderCacheManager(LARGEST, BUDGET, has_rows)
    assert manager.can_allocate(full, 0, LARGEST, 0)
    manager.allocate(full, 0)
    assert not manager.can_allocate(request_of([(10, 500)]), 0, LARGEST - 10, 0)
    assert manager.can_allocate(there, 0, LARGEST - 10, 0)


def test_what_fits_and_is_not_scheduled_does_not_count():
    """As where the KV cache has no room for the request."""
    manager = ScriptEncoderCacheManager(LARGEST, BUDGET)
    dropped, scheduled, late = (request_of([(10, 500)]) for _ in range(3))
    assert manager.can_allocate(dropped, 0, LARGEST, 0)
    assert manager.can_allocate(scheduled, 0, LARGEST, 0)
    manager.allocate(scheduled, 0)
    assert not manager.can_allocate(late, 0, LARGEST - 10, 0)
    manager.get_freed_mm_hashes()
    assert manager.can_allocate(late, 0, LARGEST, 0)


def test_items_of_one_request_add_up_before_it_is_scheduled():
    manager = ScriptEncoderCacheManager(LARGEST, BUDGET)
    request = request_of([(10, 250), (10, 250), (10, 250)])
    fits = [manager.can_allocate(request, index, LARGEST, 10 * index) for index in range(3)]
    assert fits == [True, True, False]
