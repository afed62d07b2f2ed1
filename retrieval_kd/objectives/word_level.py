"""Word-level distillation: where a cross-encoder looks from one text at the other, told by the student's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Signal, Signals, UserError, WhiteBox
from retrieval_kd.functional.attention_maps import renormalised, row_kl, token_similarities
from retrieval_kd.functional.divergence import mean_over_queries
from retrieval_kd.functional.late_interaction import inside
from retrieval_kd.functional.read_pairs import mean_of_queries, read_pairs

HEADS = ("averaged", "matched")
SIMILARITIES = ("cosine", "dot")


class WordLevel(nn.Module):
    """KL between the teacher's attention from each query token to the passage and the student's token similarities.

    After the idea in MD2PR's abstract (Li et al., 2023, https://arxiv.org/abs/2312.16821); the formula is a
    reconstruction. Only pairs that the teacher is shown: each query with its positive and a few hard candidates, those
    that the student scores highest. Soft labels: the filter is not asked.

    Args:
        teacher: Gives the white-box teacher when it is first needed; it runs beside the training, without a gradient.
        pairs_per_query: Hard candidates of each query that are read beside the positive.
        heads: ``averaged``, or ``matched``: the student's dimensions are parted among the teacher's heads.
        symmetric: Whether attention from the passage to the query counts as much.
        similarity: ``cosine`` or ``dot`` of token states.
        temperature: Divides the student's similarities.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.ATTENTION})

    def __init__(
        self,
        teacher: Callable[[], WhiteBox],
        pairs_per_query: int,
        heads: str,
        symmetric: bool,
        similarity: str,
        temperature: float,
    ) -> None:
        super().__init__()
        for name, value, known in (("heads", heads, HEADS), ("similarity", similarity, SIMILARITIES)):
            if value not in known:
                raise ValueError(f"objective.word_level.{name} is {' or '.join(known)}, got {value}")
        if pairs_per_query < 0:
            raise ValueError(f"objective.word_level.pairs_per_query is at least 0, got {pairs_per_query}")
        if temperature <= 0:
            raise ValueError(f"objective.word_level.temperature must be > 0, got {temperature}")
        self.teacher = teacher  # a function: a module would be trained with the student and saved in its checkpoints
        self.pairs_per_query = pairs_per_query
        self.averaged = heads == "averaged"
        self.symmetric = symmetric
        self.cosine = similarity == "cosine"
        self.temperature = temperature

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """A query's loss is the mean over its pairs; one without a pair is not counted."""
        shown = read_pairs(evidence, signals, self.pairs_per_query)
        if shown is None:
            return evidence.query_passage.sum() * 0.0
        query, passage, pairs = shown
        left = evidence.queries["words"][query, : pairs.queries.shape[1]]
        right = evidence.passages["words"][passage, : pairs.passages.shape[1]]
        with torch.no_grad():
            attention = self.teacher().attention(pairs, self.averaged)
        heads = attention.to_passage.shape[1]
        if left.shape[-1] % heads:
            raise UserError(
                f"objective.word_level.heads=matched: the student's tokens have {left.shape[-1]} dimensions, which"
                f" {heads} heads of the teacher do not divide; objective.word_level.heads=averaged would fit"
            )
        similar = token_similarities(left, right, heads, self.cosine) / self.temperature
        rows, columns = inside(pairs.query_lengths, left.shape[1]), inside(attention.read, right.shape[1])
        losses = row_kl(renormalised(attention.to_passage, columns), similar, rows, columns)
        if self.symmetric:
            back = renormalised(attention.to_query, rows)
            losses = (losses + row_kl(back, similar.transpose(-1, -2), columns, rows)) / 2
        return mean_over_queries(*mean_of_queries(losses, query, len(weight)), weight)
