"""Parts of accuracy_bench.py and ablation_bench.py: questions, answers, and what they are worth."""
