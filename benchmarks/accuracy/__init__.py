"""Parts of accuracy_bench.py."""
