"""Penalties on representations."""
