"""Figures from papers, to set a run beside. None of them was measured by this project.

Averages are per cent of the unpruned model's, over tasks that differ a little from paper to paper.
"""

from __future__ import annotations

from typing import NamedTuple

CEN_PRUNE = "Cen-Prune paper, arXiv 2608.30263"
STACKTOK = "StackTok paper, 2026"
SCRIPT = "Script paper, arXiv 2512.01949"


class Published(NamedTuple):
    """A row of a paper's table."""

    model: str
    method: str
    averages: dict[str, float]
    """Budget -> per cent of the unpruned average."""
    source: str


_BUDGETS = {
    (CEN_PRUNE, "LLaVA-1.5-7B"): ("128", "64"),
    (STACKTOK, "LLaVA-1.5-7B"): ("192", "128", "64"),
    (SCRIPT, "LLaVA-1.5-7B"): ("64",),
    (SCRIPT, "LLaVA-NeXT-7B"): ("320",),
} | {
    (source, model): budgets
    for source in (CEN_PRUNE, STACKTOK)
    for model, budgets in {
        "LLaVA-NeXT-7B": ("640", "320", "160"),
        "Qwen2.5-VL-7B": ("20 %", "10 %", "5 %"),
    }.items()
}
_ROWS: dict[tuple[str, str], dict[str, tuple[float, ...]]] = {
    (CEN_PRUNE, "LLaVA-1.5-7B"): {
        "VisionZip": (97.0, 93.4),
        "HoloV": (96.0, 93.1),
        "DivPrune": (96.9, 94.8),
        "DivPrune + Cen-Prune": (97.7, 96.2),
        "ZOO-Prune": (97.1, 95.5),
        "ZOO-Prune + Cen-Prune": (98.0, 96.2),
        "MMTok": (97.5, 96.3),
        "CDPruner": (97.3, 96.3),
        "CDPruner + Cen-Prune": (98.1, 97.0),
    },
    (CEN_PRUNE, "LLaVA-NeXT-7B"): {
        "VisionZip": (97.2, 93.0, 87.8),
        "VisPruner": (96.3, 92.5, 87.7),
        "PruneSID": (93.4, 92.2, 88.6),
        "DivPrune": (95.3, 92.5, 89.9),
        "DivPrune + Cen-Prune": (96.9, 94.5, 91.4),
        "ZOO-Prune": (96.3, 93.5, 90.5),
        "ZOO-Prune + Cen-Prune": (97.0, 94.3, 91.9),
        "MMTok": (96.9, 93.8, 91.4),
        "CDPruner": (97.0, 94.4, 92.1),
        "CDPruner + Cen-Prune": (98.1, 95.8, 93.4),
    },
    (CEN_PRUNE, "Qwen2.5-VL-7B"): {
        "DivPrune": (92.1, 85.1, 75.6),
        "DivPrune + Cen-Prune": (94.5, 88.9, 80.5),
        "MMTok": (91.5, 83.2, 74.2),
        "CDPruner": (87.1, 79.5, 70.9),
        "CDPruner + Cen-Prune": (91.3, 84.4, 74.0),
    },
    (STACKTOK, "LLaVA-1.5-7B"): {
        "VisionZip": (97.86, 96.83, 93.11),
        "DivPrune": (97.99, 96.88, 94.76),
        "MMTok": (98.70, 97.84, 96.58),
        "StackTok": (98.99, 98.03, 96.66),
    },
    (STACKTOK, "LLaVA-NeXT-7B"): {
        "DivPrune": (97.18, 95.14, 92.43),
        "MMTok": (98.78, 97.32, 95.18),
        "StackTok": (98.97, 97.51, 95.26),
    },
    (STACKTOK, "Qwen2.5-VL-7B"): {
        "VisionZip": (94.25, 87.46, 75.37),
        "DivPrune": (91.49, 84.73, 76.26),
        "MMTok": (94.58, 88.52, 78.98),
        "StackTok": (95.79, 89.80, 80.00),
    },
    (SCRIPT, "LLaVA-1.5-7B"): {"Script": (96.86,)},
    (SCRIPT, "LLaVA-NeXT-7B"): {"Script": (96.88,)},
}
AVERAGES = [
    Published(model, method, dict(zip(_BUDGETS[source, model], values, strict=True)), source)
    for (source, model), rows in _ROWS.items()
    for method, values in rows.items()
]

SCORES = {
    ("LLaVA-1.5-7B", "32"): {
        "DivPrune": {"gqa": 55.0, "mme": 1306, "pope": 81.7, "textvqa_val": 53.1},
        "DivPrune + Cen-Prune": {"gqa": 56.0, "mme": 1335, "pope": 82.8, "textvqa_val": 55.3},
        "CDPruner": {"gqa": 57.2, "mme": 1359, "pope": 87.2, "textvqa_val": 52.9},
        "CDPruner + Cen-Prune": {"gqa": 57.5, "mme": 1372, "pope": 86.1, "textvqa_val": 55.2},
        "MMTok": {"gqa": 56.2, "mme": 1358, "pope": 82.9, "textvqa_val": 53.7},
        "PruneSID": {"gqa": 54.7, "mme": 1297, "pope": 79.9, "textvqa_val": 52.4},
        "HoloV": {"gqa": 52.8, "mme": 1262, "pope": 70.5, "textvqa_val": 53.7},
        "Script": {"gqa": 54.4, "mme": 1258.5, "pope": 84.4, "textvqa_val": 47.6},
    }
}
"""(model, budget) -> method -> scores by task, of the Cen-Prune paper and Script's project page."""
