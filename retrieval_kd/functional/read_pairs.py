"""The pairs that a white box reads beside a training: each query with its positive and a few hard candidates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retrieval_kd.contracts import Evidence, Role, Signals, WordPairs


class ReadPairs(NamedTuple):
    """K pairs of a batch."""

    query: Tensor  # [K] int64, rows of the queries
    passage: Tensor  # [K] int64, rows of the passages
    words: WordPairs


def read_pairs(evidence: Evidence, signals: Signals, hard: int) -> ReadPairs | None:
    """Positives, and those ``hard`` candidates of each query that the student scores highest; None where there is none.

    A text without a word is in no pair; ids are no wider than the longest text among those that are read.
    """
    candidate = (signals.role == Role.HARD) | (signals.role == Role.RANDOM)
    scores = evidence.query_passage.detach().masked_fill(~candidate, -torch.inf)
    hardest = scores.topk(min(hard, scores.shape[1])).indices
    chosen = signals.target | (torch.zeros_like(candidate).scatter(1, hardest, True) & candidate)
    left, right = evidence.queries, evidence.passages
    query, passage = (chosen & (left["word_lengths"] > 0)[:, None] & (right["word_lengths"] > 0)).nonzero().unbind(1)
    if not len(query):
        return None
    lengths = left["word_lengths"][query], right["word_lengths"][passage]
    most = [int(length.max()) for length in lengths]
    ids = left["word_ids"][query, : most[0]], right["word_ids"][passage, : most[1]]
    return ReadPairs(query, passage, WordPairs(ids[0], lengths[0], ids[1], lengths[1]))


def mean_of_queries(losses: Tensor, query: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means over each query's pairs [Q] of losses [K], and which queries have any [Q]."""
    pairs = torch.bincount(query, minlength=count)
    return losses.new_zeros(count).index_add(0, query, losses) / pairs.clamp_min(1), pairs > 0
