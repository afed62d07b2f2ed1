"""Turn evidence and signals into a scalar."""
