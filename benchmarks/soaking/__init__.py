"""Parts of soak.py: everything that clients do, and the sums that must hold afterwards."""
