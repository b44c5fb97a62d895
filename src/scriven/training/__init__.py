"""Optimizers, workers, fitted settings and the training loop."""
