"""Hold representations or texts and answer top-k."""
