"""Parts of serve_bench.py and family_bench.py: servers under load, and what they answer."""
