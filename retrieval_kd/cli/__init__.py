"""One module per verb: compose, instantiate, call."""
