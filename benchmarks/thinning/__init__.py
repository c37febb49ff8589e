"""Parts of tower_bench.py and tower_scenes.py: patches dropped inside a vision tower."""
