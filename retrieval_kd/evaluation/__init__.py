"""Measures, runs, significance, tables."""
