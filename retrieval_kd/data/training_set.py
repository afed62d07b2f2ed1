"""What is trained on: queries with their scored candidates and judged pairs, of which some are drawn each epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from retrieval_kd.contracts import DARK_ROLES, TARGET_ROLES, PassageTexts, Role, ScoreTeacher, UserError
from retrieval_kd.data.candidates import Candidates
from retrieval_kd.data.pairs import PlacedPairs


@dataclass(frozen=True)
class Draw:
    """How a query's list is drawn: one positive where it has any, ``per_query`` others that were found, ``made`` made.

    Of a query with judged pairs, the passages of some pairs come first, a pair that fits after the other, so that pairs
    are in the list whole; what room is left is filled from all candidates.
    """

    per_query: int
    seed: int
    made: int = 0


@dataclass(frozen=True)
class Signalled:
    """What the teacher said of all candidates: its own scores [n], its members' [M, n], and judged pairs of them.

    ``own`` [T, n] are the scores of the teachers that T terms name for themselves.
    """

    scores: np.ndarray
    members: np.ndarray
    pairs: PlacedPairs | None = None
    own: np.ndarray | None = None


InBatch = Callable[[Sequence[int], np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Numbers of queries [Q], rows of passages [P], roles [Q, P] -> teacher scores [Q, P], members' [M, Q, P]."""


class TrainingSet:
    """Candidates, scores, texts and known positives of every training query, as arrays."""

    def __init__(
        self,
        queries: Mapping[str, str],
        judgements: Mapping[str, Mapping[str, int]] | None,
        candidates: Candidates,
        passages: PassageTexts,
        signalled: Signalled,
        draw: Draw,
        in_batch: InBatch | None = None,
    ) -> None:
        if not candidates.query_ids:
            raise UserError("there is no candidate to train on: the training split has no query with a list")
        self.query_ids = candidates.query_ids
        self.query_texts = [queries[query_id] for query_id in candidates.query_ids]
        self.offsets = candidates.offsets
        self.role = candidates.role
        self.passages = passages
        self.signalled = signalled
        self.draw = draw
        self.in_batch = in_batch  # the teacher over whole batches, instead of each query's own list
        self.rows = passages.rows(candidates.passage_ids)
        if (self.rows < 0).any():
            missing = candidates.passage_ids[int(np.argmin(self.rows))]
            raise UserError(f"candidates name {int((self.rows < 0).sum())} unknown passages, first {missing!r}")
        self.known_positives = [self._known(number, judgements) for number in range(len(self.query_ids))]

    def __len__(self) -> int:
        return len(self.query_ids)

    def _known(self, query: int, judgements: Mapping[str, Mapping[str, int]] | None) -> np.ndarray:
        """Judged positives, and those of its list that a teacher labelled."""
        judged = (judgements or {}).get(self.query_ids[query], {})
        rows = self.passages.rows([passage_id for passage_id, relevance in judged.items() if relevance > 0])
        own = slice(self.offsets[query], self.offsets[query + 1])
        labelled = self.rows[own][self.role[own] == Role.PSEUDO_POSITIVE]
        return self.passages.keys(np.union1d(rows[rows >= 0], labelled))

    def list_of(self, query: int, epoch: int) -> np.ndarray:
        """Positions of the candidates that ``query`` shows in ``epoch``: the same for the same seed, on any machine."""
        positions = np.arange(self.offsets[query], self.offsets[query + 1])
        is_target = np.isin(self.role[positions], TARGET_ROLES)
        generator = np.random.default_rng((self.draw.seed, epoch, query))
        others = positions[~is_target]
        if self.signalled.pairs is not None:
            return self._around_pairs(query, positions[is_target], others, generator)
        is_made = np.isin(self.role[others], DARK_ROLES)
        size = self.draw.per_query if is_target.any() else self.draw.per_query + 1
        drawn = _some(others[~is_made], size, generator)
        if is_target.any():
            drawn = np.concatenate([generator.choice(positions[is_target], 1), drawn])
        return np.concatenate([drawn, _some(others[is_made], self.draw.made, generator)]) if is_made.any() else drawn

    def _around_pairs(
        self, query: int, targets: np.ndarray, others: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """A list that holds pairs of the query whole, drawn in a random order while their passages fit."""
        chosen = generator.choice(targets, 1).tolist() if len(targets) else []
        size = 1 + self.draw.per_query + (self.draw.made if np.isin(self.role[others], DARK_ROLES).any() else 0)
        usable = {*chosen, *others.tolist()}
        left, right, _ = self.pairs_of(query)
        for number in generator.permutation(len(left)).tolist():
            pair = [int(left[number]), int(right[number])]
            fresh = [position for position in pair if position not in chosen]
            if usable.issuperset(pair) and len(chosen) + len(fresh) <= size:
                chosen += fresh
        rest = generator.permutation(others[~np.isin(others, chosen)])
        is_made, in_pairs = (
            np.isin(self.role[rest], DARK_ROLES),
            int(np.isin(self.role[chosen], DARK_ROLES).sum()) if chosen else 0,
        )
        found = rest[~is_made][: max(0, 1 + self.draw.per_query - (len(chosen) - in_pairs))]
        made = rest[is_made][: max(0, self.draw.made - in_pairs)]
        return np.concatenate([chosen, found, made])[:size].astype(np.int64)

    def pairs_of(self, query: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Judged pairs of a query: positions of both candidates, and the log-odds of the first over the second."""
        pairs = self.signalled.pairs
        if pairs is None:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        own = slice(pairs.offsets[query], pairs.offsets[query + 1])
        return pairs.left[own], pairs.right[own], pairs.log_odds[own]


def _some(positions: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """So many of them, or all where there are no more."""
    return positions if len(positions) <= size else generator.choice(positions, size, replace=False, shuffle=False)


def combine_scores(candidates: Candidates, members: np.ndarray, teacher: ScoreTeacher, dark: np.ndarray) -> np.ndarray:
    """The teacher's scores [n] of every candidate, combined over each query's whole list."""
    scores = np.empty(members.shape[1], dtype=np.float32)
    for row, (start, end) in enumerate(pairwise(candidates.offsets)):
        try:
            scores[start:end] = teacher.combine(members[:, start:end], dark[start:end])
        except UserError as error:
            raise UserError(f"query {candidates.query_ids[row]}: {error}") from error
    return scores
