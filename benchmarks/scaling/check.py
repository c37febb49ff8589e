"""What is modelled beside what is measured: one server, then an encoder and a language model.

On a CPU each engine has a core: the one server and the language model the last one of the machine,
and the encoder instance the one before. Costs are those of the one server. What follows from them
for the pair is compared with what the pair then does.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from os import cpu_count
from pathlib import Path
from typing import Any

import uvicorn
from tqdm import tqdm

from vllm_script.server.launch import VllmServer
from vllm_script.server.proxy import Proxy

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

PAIR = "pair"
VALUE_BYTES = 4
"""Of a value in rows and in the KV cache: servers of the check compute in float32."""
NOTES = """\
Costs follow from the one server's requests/s. Modelled are the times of the two stages, the pair's
requests/s, and the bytes between them; the one server and the pair are driven in turns. Modelled is
a pair with machines of its own; measured is one that shares this machine with its API servers, the
proxy and the load generator."""


@contextmanager
def servers(model: str, flags: Sequence[str], folder: Path) -> Iterator[dict[str, Target]]:
    """One server, and a pair behind our proxy, by kind.

    Args:
        model: what `vllm serve` is given.
        flags: of all servers.
        folder: where the two of the pair meet.
    """
    last = (cpu_count() or 1) - 1
    wanted = [(last, ()), (max(last - 1, 0), _role("ec_producer", folder))]
    wanted.append((last, _role("ec_consumer", folder)))

    def start(core: int, own: Sequence[str]) -> VllmServer:
        env = {"VLLM_CPU_OMP_THREADS_BIND": str(core)}
        return stack.enter_context(VllmServer(model, *FLAGS[SCRIPT], *flags, *own, env=env))

    with ExitStack() as stack:
        with ThreadPoolExecutor(len(wanted)) as pool:
            one, encoder, language = pool.map(start, *zip(*wanted, strict=True))
        proxy = stack.enter_context(proxied(encoder.url, language.url))
        yield {SCRIPT: target_at(SCRIPT, one.url), PAIR: target_at(PAIR, proxy)}


def _role(role: str, folder: Path) -> tuple[str, str]:
    """Flags of one side of the pair."""
    transfer = {"ec_connector": "ECExampleConnector", "ec_role": role}
    extra = {"shared_storage_path": str(folder)}
    return "--ec-transfer-config", json.dumps(transfer | {"ec_connector_extra_config": extra})


def bytes_in(folder: Path) -> int:
    """Bytes of the rows in the folder of a pair."""
    return sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))


@contextmanager
def proxied(encoder: str, model: str) -> Iterator[str]:
    """Address of our proxy before an encoder instance and a language model, given with /v1."""
    urls = [url.removesuffix("/v1") for url in (encoder, model)]
    proxy = uvicorn.Server(uvicorn.Config(Proxy(urls[:1], urls[1:]).app, log_level="warning"))
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        place.listen()  # who asks before the proxy has started waits
        serving = threading.Thread(target=proxy.run, args=([place],))
        serving.start()
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}"
        finally:
            proxy.should_exit = True
            serving.join()


def measure(
    cell: Cell,
    expected: Expected,
    targets: Mapping[str, Target],
    rows: Path,
    about: dict[str, Any],
    out: Path,
) -> list[Line]:
    """Drive both in turns, and return the lines of the one server's arms and of the pair's.

    Args:
        cell: whose arms are keep ratios.
        targets: as `servers` has them.
        rows: the folder of the pair.
        about: as `describe` has it.
        out: gets the load generator's log.

    Returns:
        lines as `summary` has them; those of the pair with the bytes that moved for a request.

    Raises:
        WrongOutputs: a request failed, or has other token counts than expected.
    """
    blocks: dict[tuple[str, Arm], list[Block]] = {}
    moved: dict[Arm, int] = dict.fromkeys(cell.arms, 0)
    turns = [(kind, arm, -1) for kind in targets for arm in cell.arms]  # warm-up
    for repetition, arm in in_turns(cell.arms, cell.repetitions):
        turns += [(kind, arm, repetition) for kind in targets]
    for number, (kind, arm, repetition) in enumerate(tqdm(turns, unit="block")):
        seeds, count = (about["seed"], number), 1 if repetition < 0 else cell.requests
        texts = (expected.tokenizer, about["text_tokens"])
        requests = list(make_requests(cell.picture, *texts, seeds, count))
        arguments = load_arguments(cell.concurrency, None, about["output_tokens"], arm.asked, 0)
        time.sleep(SETTLE_SECONDS)
        before = bytes_in(rows)
        block = run_block(targets[kind], expected.model, requests, arguments, out, watch=False)
        kept = [expected.kept_by(arm, request.size) for request in requests]
        lengths = [expected.text_tokens(r) + k for r, k in zip(requests, kept, strict=True)]
        check_block(block, lengths, about["output_tokens"])
        if repetition >= 0:
            blocks.setdefault((kind, arm), []).append(block)
            moved[arm] += bytes_in(rows) - before
    common: dict[str, Any] = dict(rate=None, idle_cores=None, about=about)
    common["text_tokens"] = expected.text_tokens(requests[0])
    common["kv_cache_tokens"] = kv_cache_tokens(fetch(targets[SCRIPT].root))
    lines = []
    for (kind, arm), own in blocks.items():
        line = summary(cell, arm, own, **common) | {"server": kind}
        if kind == PAIR:
            line["bytes_moved"] = round(moved[arm] / (cell.requests * cell.repetitions), 1)
        lines.append(line)
    return lines


def check_report(lines: Sequence[Line]) -> str:
    """What is modelled of the pair beside what was measured of it."""
    one, pair = ([ln for ln in lines if ln["server"] == kind] for kind in (SCRIPT, PAIR))
    about = lines[0]["about"]
    rows = []
    for line in sorted(pair, key=lambda line: -line["keep_ratio"]):
        model = modelled(one, line["keep_ratio"])
        rate, found = model.pair_requests_per_s, line["requests_per_s"]
        (alone,) = (ln for ln in one if ln["keep_ratio"] == line["keep_ratio"])
        row = [f"{line['keep_ratio']:g}", f"{alone['requests_per_s']:.3f}"]
        row += [f"{model.encoder_ms:.0f}", f"{model.language_ms:.0f}"]
        row += [f"{rate:.3f}", f"{found:.3f}", f"{found / rate:.2f}"]
        rows.append([*row, f"{model.row_bytes:,}", f"{line['bytes_moved']:,.0f}"])
    header = ["keep ratio", "one server, requests/s", "encoder, ms", "language model, ms"]
    header += ["pair, modelled", "pair, measured", "measured to modelled"]
    header += ["bytes a request, modelled", "measured"]
    tokens, each = one[0]["kv_cache_tokens"], model.costs.kv_bytes
    cache = (
        f"The one server's KV cache holds {tokens:,} tokens, by the modelled {each:,} bytes of a "
    )
    cache += f"token {tokens * each / 2**30:.3f} GiB."
    return f"{bullets(about)}\n\n{NOTES}\n\n{markdown(header, rows)}\n\n{cache}\n"


def modelled(one: Sequence[Line], keep_ratio: float) -> Deployment:
    """What follows of the one server's arms for a pair at a keep ratio."""
    costs = costs_of(one, keep_ratio, VALUE_BYTES)
    return Deployment(costs, load_of(one), keep_ratio)
