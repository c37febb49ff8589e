"""Parts of photo_bench.py: photographs with truth, towers, relevance, and what selections keep."""
