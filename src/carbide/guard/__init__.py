"""The serving shield."""
