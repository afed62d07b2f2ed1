"""Word-level distillation: where a cross-encoder looks from one text at the other, told by the student's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import AttentionTeacher, Evidence, Role, Signal, Signals, UserError, WordPairs
from retrieval_kd.functional.attention_maps import renormalised, row_kl, token_similarities
from retrieval_kd.functional.divergence import mean_over_queries
from retrieval_kd.functional.late_interaction import inside

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
        teacher: Callable[[], AttentionTeacher],
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
        query, passage = self.shown(evidence, signals)
        if not len(query):
            return evidence.query_passage.sum() * 0.0
        pairs, left, right = _words(evidence, query, passage)
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
        return mean_over_queries(*_of_queries(losses, query, len(weight)), weight)

    def shown(self, evidence: Evidence, signals: Signals) -> tuple[Tensor, Tensor]:
        """Queries and passages [K] of the pairs that the teacher reads."""
        hard = (signals.role == Role.HARD) | (signals.role == Role.RANDOM)
        scores = evidence.query_passage.detach().masked_fill(~hard, -torch.inf)
        hardest = scores.topk(min(self.pairs_per_query, scores.shape[1])).indices
        chosen = signals.target | (torch.zeros_like(hard).scatter(1, hardest, True) & hard)
        query, passage = chosen.nonzero().unbind(1)
        return query, passage


def _words(evidence: Evidence, query: Tensor, passage: Tensor) -> tuple[WordPairs, Tensor, Tensor]:
    """Tokens of the pairs, and their states [K, I, D] and [K, J, D]; no wider than the longest text among them."""
    left, right = evidence.queries, evidence.passages
    query_lengths, passage_lengths = left["word_lengths"][query], right["word_lengths"][passage]
    most = int(query_lengths.max()), int(passage_lengths.max())
    pairs = WordPairs(
        left["word_ids"][query, : most[0]], query_lengths, right["word_ids"][passage, : most[1]], passage_lengths
    )
    return pairs, left["words"][query, : most[0]], right["words"][passage, : most[1]]


def _of_queries(losses: Tensor, query: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means over each query's pairs [Q], and which queries have any [Q]."""
    pairs = torch.bincount(query, minlength=count)
    return losses.new_zeros(count).index_add(0, query, losses) / pairs.clamp_min(1), pairs > 0
