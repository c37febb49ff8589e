"""Parts of lmms_bench.py: published benchmarks, asked by lmms-eval of our server and of stock."""
