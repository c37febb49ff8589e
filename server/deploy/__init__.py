"""Several machines: Ray, and files to copy."""
