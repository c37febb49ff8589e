"""The parts of tiny_family.py."""
