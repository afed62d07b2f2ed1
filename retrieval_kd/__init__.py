"""Distil rerankers into retrievers: composable students, teachers, negatives, filters and objectives."""
