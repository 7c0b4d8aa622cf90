"""Leakage about the training data."""
