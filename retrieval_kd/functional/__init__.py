"""Tensor mathematics without state."""
