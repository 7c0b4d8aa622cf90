"""Stealing the model through its answers."""
