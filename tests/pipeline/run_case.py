"""Runs as the tests make them."""

import json

from retrieval_kd.pipeline.compose import compose
from retrieval_kd.pipeline.run import train

CROSS_ENCODER = ("teacher=pointwise", "teacher.scorer.max_length=24", "teacher.scorer.train.batch_size=6")
BM25_TEACHER = ("teacher=pointwise", "scorer@teacher.scorer=bm25")


def go(*overrides):
    return train(compose(overrides))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())
