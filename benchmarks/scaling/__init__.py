"""Parts of scale.py: what is known of costs, what follows from it, and a pair that checks it."""
