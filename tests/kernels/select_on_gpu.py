"""One selection by every op, small, for compute-sanitizer: `compute-sanitizer python FILE`."""

import torch

from vllm_script.kernels import (
    cosine_similarity,
    farthest_first,
    gather_rows,
    greedy_cover,
    greedy_map,
    query_relevance,
    reduce_graph,
)

SETTINGS = {"tau": 0.1, "tau_relative": True, "gamma": 1.0}

if __name__ == "__main__":
    generator = torch.Generator().manual_seed(0)
    lengths, targets, budgets = [200, 37, 330], [100, 20, 165], [22, 20, 36]
    x = (torch.randn(sum(lengths), 256, generator=generator) + 0.5).bfloat16().cuda()
    relevance = query_relevance(x, x[:3], lengths=lengths, query_lengths=[1, 1, 1])
    similarity = cosine_similarity(x.split(lengths), backend="triton")
    pool = reduce_graph(similarity, targets, **SETTINGS)
    picks = greedy_map(similarity, relevance, budgets, pool=pool)
    gather_rows(x, picks)
    for bonus in None, relevance:
        farthest_first(similarity, budgets, relevance, bonus)
    greedy_cover(similarity, budgets, relevance)
    video, windows = cosine_similarity([x[:240]], backend="triton"), torch.arange(240).split(80)
    reduce_graph(video, [40, 40, 40], **SETTINGS, windows=windows)
    for floors in [8, 0, 20, 0], [0, 0, 0, 0]:
        greedy_map(video, relevance[:240], [40], floors=floors)
    torch.cuda.synchronize()
    print("selected", picks.tolist()[:5])
