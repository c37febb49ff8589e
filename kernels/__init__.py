"""Tensor operations of the Script method. Needs torch, and Triton if it is there.

In the order of the method: what the query asks for (relevance), how alike the tokens of an image
are (similarity), which of them others can stand for (reduce_graph), which to keep of the rest
(greedy_map), or instead which are most unlike each other (farthest_first) or stand for all
(greedy_cover), and their copy (gather_rows). Each op has a float32 PyTorch reference and Triton
kernels; scores are float32 whatever the dtype of the rows. unit_rows, unit_peak,
normalize_relevance and largest_relevance are PyTorch alone; to_device copies values of the host
without a wait, ops_in_torch says what has fallen back to PyTorch.
"""

from ._launch import ops_in_torch
from ._sizes import MAX_TOKENS
from ._triton import Backend
from .farthest_first import farthest_first
from .gather import gather_rows
from .greedy_cover import greedy_cover
from .greedy_map import greedy_map
from .norms import inverse_norms, unit_rows
from .reduce_graph import Pool, reduce_graph
from .relevance import largest_relevance, normalize_relevance, query_relevance, unit_peak
from .similarity import Similarity, cosine_similarity
from .transfer import to_device

__all__ = [
    "MAX_TOKENS",
    "Backend",
    "Pool",
    "Similarity",
    "cosine_similarity",
    "farthest_first",
    "gather_rows",
    "greedy_cover",
    "greedy_map",
    "inverse_norms",
    "largest_relevance",
    "normalize_relevance",
    "ops_in_torch",
    "query_relevance",
    "reduce_graph",
    "to_device",
    "unit_peak",
    "unit_rows",
]
