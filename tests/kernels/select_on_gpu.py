"""One selection by every op, small, for compute-sanitizer: `compute-sanitizer python FILE`."""

import torch

from vllm_script.kernels import (
    gather_rows,
    greedy_map,
    inverse_norms,
    query_relevance,
    reduce_graph,
)

if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    lengths, targets, budgets = [200, 37, 330], [100, 20, 165], [22, 20, 36]
    x = (torch.randn(sum(lengths), 256, generator=generator) + 0.5).bfloat16().cuda()
    relevance = query_relevance(x, x[:3], lengths=lengths, query_lengths=[1, 1, 1])
    inverse_norm = inverse_norms(x)
    pool = reduce_graph(
        x,
        targets,
        tau=0.1,
        tau_relative=True,
        gamma=1.0,
        lengths=lengths,
        inverse_norm=inverse_norm,
    )
    picks = greedy_map(x, relevance, budgets, lengths=lengths, pool=pool, inverse_norm=inverse_norm)
    gather_rows(x, picks)
    torch.cuda.synchronize()
    print("selected", picks.tolist()[:5])
