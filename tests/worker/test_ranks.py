"""Tensor-parallel ranks compare what they keep, each in a process of its own."""

import json
import subprocess
import sys
from types import SimpleNamespace

from vllm_script.worker import ranks

RANK = """
import json, sys, torch
from types import SimpleNamespace
from unittest import mock
rank, store, cases = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{store}", rank=rank, world_size=2
)
from vllm_script.worker import ranks
group = SimpleNamespace(world_size=2, cpu_group=torch.distributed.group.WORLD)
said = []
with mock.patch.object(ranks, "get_tp_group", lambda: group):
    for kept in cases:
        own, fallen_back, has_clusters = kept[rank]
        ranks.ops_in_torch = lambda device, names=fallen_back: names
        ranks.has_clusters = lambda device, has=has_clusters: has
        try:
            ranks.check_ranks_agree(torch.tensor(own))
            said.append(None)
        except RuntimeError as error:
            said.append(str(error))
print(json.dumps(said))
"""


def test_every_rank_names_those_that_differ(tmp_path):
    cases = [
        [([1, 2, 5], [], True), ([1, 2, 5], [], True)],
        [([1, 2, 5], [], True), ([1, 2, 6], [], True)],
        [([1, 2, 5], [], True), ([1, 2, 5], ["reduce_graph"], True)],
        [([1, 2, 5], [], True), ([1, 2, 5], [], False)],
        [([0], ["reduce_graph"], False), ([0], ["reduce_graph"], False)],
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", RANK, str(rank), tmp_path / "store", json.dumps(cases)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        lines = process.communicate(timeout=300)[0].splitlines()
        before, error, fallen_back, no_clusters, after = json.loads(lines[-1])
        assert before is None and after is None
        assert error.startswith(
            "of 2 tensor-parallel ranks, 1 kept other visual tokens than rank 0 of the same item"
        )
        for error in fallen_back, no_clusters:
            assert error.startswith(
                "of 2 tensor-parallel ranks, 1 select by other code than rank 0"
            )
        assert "[[], ['reduce_graph in PyTorch']]" in fallen_back
        assert "[[], ['greedy_map without clusters']]" in no_clusters


def test_one_rank_has_nobody_to_ask(monkeypatch):
    monkeypatch.setattr(ranks, "get_tp_group", lambda: SimpleNamespace(world_size=1))
    ranks.check_ranks_agree(None)
