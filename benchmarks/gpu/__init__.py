"""Parts of gpu_report.py: what is run on a GPU, under a limit, and what is made of it."""
