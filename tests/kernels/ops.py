"""The ops as most tests call them: on the rows of an image, or of many with their lengths."""

from vllm_script import kernels
from vllm_script.kernels import cosine_similarity


def similarity_of(x, lengths=None, backend="auto"):
    lengths = [len(x)] if lengths is None else lengths
    return cosine_similarity(x.split(lengths), backend)


def reduce_graph(x, target, *, lengths=None, backend="auto", **settings):
    targets = [target] if isinstance(target, int) else target
    return kernels.reduce_graph(similarity_of(x, lengths, backend), targets, **settings)


def greedy_map(x, relevance, budget, *, lengths=None, backend="auto", **settings):
    budgets = [budget] if isinstance(budget, int) else budget
    similarity = similarity_of(x, lengths, backend)
    return kernels.greedy_map(similarity, relevance, budgets, **settings)
