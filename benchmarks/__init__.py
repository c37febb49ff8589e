"""Benchmarks of speed, accuracy, memory and endurance; installs as `vllm_script.benchmarks`.

Every command lies here as a file to run, `python benchmarks/serve_bench.py`; its parts are in the
folder beside it, and what all of them do alike is in common.py.
"""
