"""Parts of serve_bench.py."""
