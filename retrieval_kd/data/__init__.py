"""Collections, passages, candidates, stores, batches."""
