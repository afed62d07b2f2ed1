"""Sentence-level distillation of features: what a cross-encoder makes of a pair, told from the vectors of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Signal, Signals, WhiteBox
from retrieval_kd.functional.divergence import mean_over_queries
from retrieval_kd.functional.processes import process_count
from retrieval_kd.functional.read_pairs import mean_of_queries, read_pairs

SEED = 0


class SentenceFeatures(nn.Module):
    """Squared distance between the teacher's [CLS] state of a pair and W [q; p; q * p], a mean over dimensions.

    The second reading of MD2PR's sentence level, beside listwise KL; a reconstruction. W is learned with the student
    and is no part of it. Only pairs that the teacher is shown. Soft labels: the filter is not asked.

    Args:
        teacher: Gives the white-box teacher when it is first needed; it runs beside the training, without a gradient.
        sizes: Dimensions of the student's vectors, and of the teacher's states.
        pairs_per_query: Hard candidates of each query that are read beside the positive.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.FEATURES})

    def __init__(self, teacher: Callable[[], WhiteBox], sizes: tuple[int, int], pairs_per_query: int) -> None:
        super().__init__()
        if pairs_per_query < 0:
            raise ValueError(f"objective.sentence_features.pairs_per_query is at least 0, got {pairs_per_query}")
        self.teacher = teacher  # a function: a module would be trained with the student and saved in its checkpoints
        self.pairs_per_query = pairs_per_query
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.projection = nn.Linear(3 * sizes[0], sizes[1])
        for parameter in self.projection.parameters():  # every process has the gradient of the whole loss of these
            parameter.register_hook(lambda gradient: gradient / process_count())

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """A query's loss is the mean over its pairs; one without a pair is not counted."""
        shown = read_pairs(evidence, signals, self.pairs_per_query)
        if shown is None:
            return sum((p.sum() for p in self.projection.parameters()), evidence.query_passage.sum()) * 0.0
        with torch.no_grad():
            told = self.teacher().features(shown.words)
        left, right = evidence.queries["vectors"][shown.query], evidence.passages["vectors"][shown.passage]
        said = self.projection(torch.cat([left, right, left * right], dim=1))
        losses = (said.float() - told).square().mean(1)
        return mean_over_queries(*mean_of_queries(losses, shown.query, len(weight)), weight)
