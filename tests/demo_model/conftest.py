"""Make `script_demo` importable, and nothing else of the repository; one thread, as in training."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "demo_model"))
torch.set_num_threads(1)
