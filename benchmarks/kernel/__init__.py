"""Parts of kernel_bench.py."""
