"""The ops as most tests call them: on the rows of an image, or of many with their lengths."""

from vllm_script import kernels
from vllm_script.kernels import cosine_similarity


def similarity_of(x, lengths=None, inverse_norm=None, backend="auto"):
    lengths = [len(x)] if lengths is None else lengths
    if inverse_norm is not None:
        inverse_norm = inverse_norm.split(lengths)
    return cosine_similarity(x.split(lengths), inverse_norm, backend)


def reduce_graph(x, target, *, lengths=None, inverse_norm=None, backend="auto", **settings):
    targets = [target] if isinstance(target, int) else target
    similarity = similarity_of(x, lengths, inverse_norm, backend)
    return kernels.reduce_graph(similarity, targets, **settings)


def greedy_map(
    x, relevance, budget, *, lengths=None, inverse_norm=None, backend="auto", **settings
):
    budgets = [budget] if isinstance(budget, int) else budget
    similarity = similarity_of(x, lengths, inverse_norm, backend)
    return kernels.greedy_map(similarity, relevance, budgets, **settings)
