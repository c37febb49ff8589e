"""Parts of scale.py: what is known of costs, what follows from it, and servers that check it."""
