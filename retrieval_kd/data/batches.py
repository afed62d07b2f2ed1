"""Queries and their drawn lists to one batch: distinct passages in one pool, texts in groups of like length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from retrieval_kd.contracts import TARGET_ROLES, Batch, Role, Side, Signals, Tokens, has_role
from retrieval_kd.data.length_groups import plan_groups
from retrieval_kd.data.sampler import Item
from retrieval_kd.data.tokenize import TextTokenizer
from retrieval_kd.data.training_set import TrainingSet

GROUP_OVERHEAD = 256  # what one more forward call costs, in tokens


class BatchMaker:
    """The collate function of training."""

    def __init__(self, training: TrainingSet, tokenizer: TextTokenizer) -> None:
        self.training = training
        self.tokenizer = tokenizer

    def __call__(self, items: Sequence[Item]) -> Batch:
        """A batch of these (query, epoch) pairs."""
        training = self.training
        lists = [training.list_of(query, epoch) for query, epoch in items]
        positions = np.concatenate(lists)
        query_of = np.repeat(np.arange(len(lists)), [len(entries) for entries in lists])
        rows, column = np.unique(training.rows[positions], return_inverse=True)
        keys = training.passages.keys(rows)
        queries = [query for query, _ in items]
        known = self._known(queries)
        signals = self._signals(queries, rows, (query_of, column), positions, _match(known, keys))
        pairs, log_odds = self._pairs(queries, lists, column)
        return Batch(
            queries=self._tokens([training.query_texts[query] for query in queries], Side.QUERY),
            passages=self._tokens(training.passages.texts(rows), Side.PASSAGE),
            query_ids=tuple(training.query_ids[query] for query in queries),
            passage_ids=tuple(training.passages.ids(rows)),
            passage_keys=torch.from_numpy(keys),
            known_positives=torch.from_numpy(known),
            signals=replace(signals, pairs=torch.from_numpy(pairs), log_odds=torch.from_numpy(log_odds)),
        )

    def _tokens(self, texts: Sequence[str], side: Side) -> Tokens:
        return self.tokenizer.groups(texts, side, lambda lengths: plan_groups(lengths, GROUP_OVERHEAD))

    def _known(self, queries: Sequence[int]) -> np.ndarray:
        lists = [self.training.known_positives[query] for query in queries]
        known = np.full((len(lists), max(1, *map(len, lists))), -1, dtype=np.int64)
        for row, keys in enumerate(lists):
            known[row, : len(keys)] = keys
        return known

    def _signals(
        self,
        queries: Sequence[int],
        rows: np.ndarray,
        at: tuple[np.ndarray, np.ndarray],
        positions: np.ndarray,
        positive: np.ndarray,
    ) -> Signals:
        shape = positive.shape
        role = np.full(shape, int(Role.NONE), dtype=np.int8)
        role[at] = self.training.role[positions]
        if self.training.in_batch is not None:
            scores, members = self.training.in_batch(queries, rows, role)
        else:
            signalled = self.training.signalled
            scores = np.full(shape, np.nan, dtype=np.float32)
            scores[at] = signalled.scores[positions]
            members = np.full((len(signalled.members), *shape), np.nan, dtype=np.float32)
            members[:, at[0], at[1]] = signalled.members[:, positions]
        return Signals(
            positive=torch.from_numpy(positive | has_role(role, TARGET_ROLES)),
            role=torch.from_numpy(role),
            scores=torch.from_numpy(scores),
            members=torch.from_numpy(members),
            pairs=torch.empty((0, 3), dtype=torch.int64),
            log_odds=torch.empty(0),
            own=self._own(shape, at, positions),
        )

    def _own(
        self, shape: tuple[int, ...], at: tuple[np.ndarray, np.ndarray], positions: np.ndarray
    ) -> torch.Tensor | None:
        """Scores of terms' own teachers [T, Q, P]."""
        own = self.training.signalled.own
        if own is None:
            return None
        scores = np.full((len(own), *shape), np.nan, dtype=np.float32)
        scores[:, at[0], at[1]] = own[:, positions]
        return torch.from_numpy(scores)

    def _pairs(
        self, queries: Sequence[int], lists: Sequence[np.ndarray], column: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Judged pairs whose passages are both in their query's list: (query, i, j) of the batch, and log-odds."""
        found = [(np.empty((0, 3), np.int64), np.empty(0, np.float32))]
        first = 0
        for row, (query, positions) in enumerate(zip(queries, lists, strict=True)):
            left, right, log_odds = self.training.pairs_of(query)
            order = np.argsort(positions)
            places = [order[np.searchsorted(positions, one, sorter=order) % len(order)] for one in (left, right)]
            here = (positions[places[0]] == left) & (positions[places[1]] == right)
            columns = [column[first + place[here]] for place in places]
            found.append((np.stack([np.full(here.sum(), row), *columns], axis=1), log_odds[here]))
            first += len(positions)
        return np.concatenate([pairs for pairs, _ in found]), np.concatenate([odds for _, odds in found])


def _match(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """[Q, m] known positives against [P] keys: [Q, P] bool."""
    return np.stack([np.isin(keys, row) for row in known])
