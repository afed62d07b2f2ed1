"""Encode queries and passages, and compare them."""
