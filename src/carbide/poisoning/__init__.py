"""Poisoned training data: flipped labels and backdoors."""
