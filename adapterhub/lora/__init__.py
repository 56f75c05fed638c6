"""Adapters as tensors: what they add to which weights. Knows torch alone."""
