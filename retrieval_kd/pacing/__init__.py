"""A weight per query from confidence and progress."""
