"""Which two passages of a list a judge compares."""
