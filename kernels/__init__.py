"""Tensor operations of the Script method. Needs torch and nothing else of this project.

Three ops (graph redundancy, query relevance, greedy MAP selection) and the cosine
preprocessing they share. All scores are float32 whatever the input dtype.
"""

from .greedy_map import greedy_map
from .redundancy import bipartite_redundancy
from .relevance import normalize_relevance, query_relevance, unit_rows

__all__ = [
    "bipartite_redundancy",
    "greedy_map",
    "normalize_relevance",
    "query_relevance",
    "unit_rows",
]
