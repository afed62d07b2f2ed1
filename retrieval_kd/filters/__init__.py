"""Which candidates may serve as hard-label negatives."""
