"""Tensor operations of the Script method. Needs torch, and Triton if it is there.

In the order of the method: what the query asks for (relevance), which tokens others can stand for
(reduce_graph, rounds of redundancy), which to keep of the rest (greedy_map), and their copy
(gather_rows). Each op has a float32 PyTorch reference and Triton kernels; scores are float32
whatever the dtype of the rows. unit_rows and normalize_relevance are PyTorch alone; to_device
copies values of the host without a wait.
"""

from ._sizes import MAX_TOKENS
from .gather import gather_rows
from .greedy_map import greedy_map
from .norms import inverse_norms, unit_rows
from .reduce_graph import Pool, reduce_graph
from .redundancy import bipartite_redundancy
from .relevance import normalize_relevance, query_relevance
from .transfer import to_device

__all__ = [
    "MAX_TOKENS",
    "Pool",
    "bipartite_redundancy",
    "gather_rows",
    "greedy_map",
    "inverse_norms",
    "normalize_relevance",
    "query_relevance",
    "reduce_graph",
    "to_device",
    "unit_rows",
]
