"""Adversarial examples: inputs changed at test time so that the model errs."""
