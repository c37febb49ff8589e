"""What is modelled beside what is measured: one server, an encoder instance, a language model.

One of the three works at a time, so that each has the machine to itself, as in a deployment it has
its own. Costs are those of the one server. What follows from them for the other two is compared
with what these then do with the same requests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vllm_script.server.launch import VllmServer

from ..common import bullets, markdown
from ..scrape import fetch
from ..serving.cells import SCRIPT, Arm, Cell, in_turns
from ..serving.checks import check_block
from ..serving.driver import Block, kv_cache_tokens, load_arguments, run_block
from ..serving.expected import Expected
from ..serving.fleet import FLAGS, Target, target_at
from ..serving.measure import SETTLE_SECONDS
from ..serving.requests import make_requests
from ..serving.results import Line, summary
from .costs import costs_of
from .deployment import Deployment, load_of

ROLES = {SCRIPT: None, "encoder": "ec_producer", "language model": "ec_consumer"}
"""Kind of server -> its side of the folder between the last two, in the order of their work."""
ENCODER, LANGUAGE = (kind for kind in ROLES if kind != SCRIPT)
VALUE_BYTES = 4
"""Of a value in rows and in the KV cache: servers of the check compute in float32."""
NOTES = """\
Costs follow from the one server's requests/s; the other figures are modelled of them, and measured.
One server works at a time, the keep ratios in turns (A B B A ...)."""


@contextmanager
def servers(model: str, flags: Sequence[str], folder: Path) -> Iterator[dict[str, Target]]:
    """A server of each kind.

    Args:
        model: what `vllm serve` is given.
        flags: of all servers.
        folder: where the encoder instance and the language model meet.
    """

    def start(kind: str) -> Target:
        own = () if ROLES[kind] is None else _meeting_in(folder, ROLES[kind])
        server = stack.enter_context(VllmServer(model, *FLAGS[SCRIPT], *flags, *own))
        return target_at(kind, server.url)

    with ExitStack() as stack:
        with ThreadPoolExecutor(len(ROLES)) as pool:
            targets = dict(zip(ROLES, pool.map(start, ROLES), strict=True))
        yield targets


def _meeting_in(folder: Path, role: str | None) -> tuple[str, str]:
    """Flags of one side of the folder."""
    transfer = {"ec_connector": "ECExampleConnector", "ec_role": role}
    extra = {"shared_storage_path": str(folder)}
    return "--ec-transfer-config", json.dumps(transfer | {"ec_connector_extra_config": extra})


def measure(
    cell: Cell,
    expected: Expected,
    targets: Mapping[str, Target],
    rows: Path,
    about: dict[str, Any],
    out: Path,
) -> list[Line]:
    """Have each kind of server do its part of the same requests, block by block.

    Args:
        cell: whose arms are keep ratios.
        targets: as `servers` has them.
        rows: the folder between them.
        about: as `describe` has it.
        out: gets the load generator's log.

    Returns:
        lines as `summary` has them, of each kind and arm; those of the encoder instance with the
        bytes that it wrote for a request.

    Raises:
        WrongOutputs: a request failed, or has other token counts than expected.
    """
    blocks: dict[tuple[str, Arm], list[Block]] = {}
    written: dict[Arm, int] = dict.fromkeys(cell.arms, 0)
    turns = [(-1, arm) for arm in cell.arms]  # first times are slow
    turns += in_turns(cell.arms, cell.repetitions)
    for number, (repetition, arm) in enumerate(tqdm(turns, unit="turn")):
        seeds, count = (about["seed"], number), 1 if repetition < 0 else cell.requests
        texts = (expected.tokenizer, about["text_tokens"])
        requests = list(make_requests(cell.picture, *texts, seeds, count))
        kept = [expected.kept_by(arm, request.size) for request in requests]
        lengths = [expected.text_tokens(r) + k for r, k in zip(requests, kept, strict=True)]
        before = _bytes_in(rows)
        for kind, target in targets.items():
            tokens = 1 if kind == ENCODER else about["output_tokens"]
            arguments = load_arguments(cell.concurrency, None, tokens, arm.asked, 0)
            time.sleep(SETTLE_SECONDS)
            block = run_block(target, expected.model, requests, arguments, out, watch=False)
            check_block(block, lengths, tokens)
            if repetition >= 0:
                blocks.setdefault((kind, arm), []).append(block)
        if repetition >= 0:
            written[arm] += _bytes_in(rows) - before
    common: dict[str, Any] = dict(rate=None, idle_cores=None, about=about)
    common["text_tokens"] = expected.text_tokens(requests[0])
    common["kv_cache_tokens"] = kv_cache_tokens(fetch(targets[SCRIPT].root))
    lines = []
    for (kind, arm), own in blocks.items():
        line = summary(cell, arm, own, **common) | {"server": kind}
        if kind == ENCODER:
            line["bytes_written"] = round(written[arm] / (cell.requests * cell.repetitions), 1)
        lines.append(line)
    return lines


def _bytes_in(folder: Path) -> int:
    """Bytes of the rows in the folder between an encoder instance and a language model."""
    return sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))


def check_report(lines: Sequence[Line]) -> str:
    """What is modelled beside what was measured."""
    by_kind = {
        kind: {ln["keep_ratio"]: ln for ln in lines if ln["server"] == kind} for kind in ROLES
    }
    one = list(by_kind[SCRIPT].values())
    about, rows = one[0]["about"], []
    for ratio in sorted(by_kind[SCRIPT], reverse=True):
        model = Deployment(costs_of(one, ratio, VALUE_BYTES), load_of(one), ratio)
        row = [f"{ratio:g}", f"{by_kind[SCRIPT][ratio]['requests_per_s']:.3f}"]
        for kind, busy_ms in ((ENCODER, model.encoder_ms), (LANGUAGE, model.language_ms)):
            rate, found = 1000 / busy_ms, by_kind[kind][ratio]["requests_per_s"]
            row += [f"{rate:.3f}", f"{found:.3f} ({found / rate:.2f} times)"]
        wrote = by_kind[ENCODER][ratio]["bytes_written"]
        rows.append([*row, f"{model.row_bytes:,}", f"{wrote:,.0f}"])
    header = ["keep ratio", "one server, requests/s", "encoder, modelled", "measured"]
    header += ["language model, modelled", "measured", "bytes a request, modelled", "measured"]
    tokens, each = one[0]["kv_cache_tokens"], model.costs.kv_bytes
    cache = f"The one server's KV cache holds {tokens:,} tokens, by the modelled {each:,} bytes of "
    cache += f"a token {tokens * each / 2**30:.3f} GiB."
    return f"{bullets(about)}\n\n{NOTES}\n\n{markdown(header, rows)}\n\n{cache}\n"
