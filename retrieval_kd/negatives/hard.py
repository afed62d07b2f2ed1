"""Hard negatives: what a retriever ranks high and nobody judged relevant, with an account of what was left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from retrieval_kd.contracts import PassageTexts, Role, UserError
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.progress import track
from retrieval_kd.data.runs import Run

Judgements = Mapping[str, Mapping[str, int]]
SOURCES = {Role.POSITIVE: "judgements", Role.RANDOM: "random"}  # of the others it is the run


@dataclass
class MiningStatistics:
    """Where every retrieved passage went; retrieved = hard + the six reasons from outside_window to margin."""

    source: str
    per_query: int
    queries: int = 0
    unlabelled: int = 0  # queries without a known positive in the collection
    judged_not_in_run: int = 0  # queries that the run does not have
    without_list: int = 0  # queries for which nothing at all was left
    inconsistent: int = 0  # queries whose positives the run does not have among its first, and which are left out
    too_short: int = 0  # queries with fewer negatives than per_query
    positives: int = 0
    positives_beyond_limit: int = 0
    unknown_positives: int = 0  # judged relevant, not in the collection
    retrieved: int = 0
    hard: int = 0
    outside_window: int = 0
    known_positive: int = 0
    identical: int = 0  # the passage is the query itself
    unknown: int = 0  # not in the collection
    not_drawn: int = 0  # the pool was full
    margin: int = 0
    random: int = 0
    random_margin: int = 0

    def as_dict(self) -> dict[str, int | str]:
        """All counts by name."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What happened, for a log; reasons that took nothing are not listed."""
        reasons = {
            "outside the window": self.outside_window,
            "known positives": self.known_positive,
            "the query itself": self.identical,
            "not in the collection": self.unknown,
            "not drawn, the pool being full": self.not_drawn,
            "too close to the positive's teacher score": self.margin,
            "random but too close to the positive's teacher score": self.random_margin,
            "positives beyond the limit": self.positives_beyond_limit,
            "positives not in the collection": self.unknown_positives,
        }
        queries = {
            "without a known positive": self.unlabelled,
            f"with fewer than {self.per_query} negatives": self.too_short,
            "left out, no positive being among the first of the run": self.inconsistent,
            "left without a list": self.without_list,
            "judged but not in the run": self.judged_not_in_run,
        }
        taken = f"{self.positives:,} positives, {self.hard:,} hard and {self.random:,} random passages"
        return [
            f"mined {self.queries:,} queries from {self.source}: {taken}",
            *_listed("left out", reasons),
            *_listed("queries", queries),
        ]


@dataclass(frozen=True)
class HardNegatives:
    """Negatives from a window of a run's ranks.

    A list holds the query's positives, then up to ``pool`` passages drawn from the window in the order of their ranks,
    then ``random`` passages of the collection. The draw depends on nothing but seed and query id. A query without
    known positives takes the first ``pool`` of its window: what it lacks may be among them. ``consistent`` leaves out
    queries that the run's retriever cannot answer: pairs that were gathered, not judged, are often no pairs. With a
    margin, passages that the teacher scores too close to the weakest of the query's positives, or above it, are dropped
    afterwards, so that the teacher never scores more than ``pool + random`` passages and the positives.
    """

    source: str  # what the run is from: bm25, or the path of a student or of a run file
    pool: int
    per_query: int  # used when lists are drawn for training; here to tell which are too short
    window: Sequence[int]  # first and last rank, from 1, inclusive
    random: int
    margin: Mapping[str, float] | None
    seed: int
    consistent: int | None = None  # a query stays if a positive is among the first so many passages of the run
    positives: int | None = None  # per query, most relevant first; the others are still no negatives

    def __post_init__(self) -> None:
        first_last = list(self.window)
        if len(first_last) != 2 or not 1 <= first_last[0] <= first_last[1]:
            raise UserError(f"negatives.window: [first, last] rank, 1 <= first <= last, not {first_last}")
        for name, least in {"pool": 0, "per_query": 1, "random": 0, "positives": 1, "consistent": 1}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"negatives.{name} must be at least {least}, not {value}")
        if not self.pool + self.random:
            raise UserError("negatives.pool and negatives.random are both 0: no query would have a negative")
        if self.consistent is not None and self.consistent > first_last[1]:
            raise UserError(
                f"negatives.consistent={self.consistent}: the run is read to rank {first_last[1]} (negatives.window)"
            )
        margin = dict(self.margin or {})
        if self.margin is not None and (len(margin) != 1 or not margin.keys() <= {"absolute", "relative"}):
            raise UserError(f"negatives.margin: null, {{absolute: x}} or {{relative: x}}, not {margin}")

    def mine(
        self,
        run: Run,
        judgements: Judgements | None,
        passages: PassageTexts,
        score: Callable[[Candidates], np.ndarray] | None = None,
        mining_round: int = 0,
    ) -> tuple[Candidates, MiningStatistics]:
        """Lists of the run's queries; ``score`` gives the teacher's scores [n] of all candidates, for the margin."""
        if self.margin is not None and score is None:
            raise UserError("negatives.margin needs a teacher that scores: set negatives.margin=null or choose one")
        judgements = judgements or {}
        statistics = MiningStatistics(_short(self.source), self.per_query)
        statistics.judged_not_in_run = len(judgements.keys() - set(run.query_ids))
        absent = _absent(run, judgements, passages)
        lists = _Lists(self, judgements, passages, absent, mining_round, statistics)
        candidates = Candidates.from_lists(lists.of(run))
        if self.margin is not None and score is not None:
            candidates = self._apart(candidates, score(candidates), statistics)
        self._count(candidates, statistics)
        return candidates, statistics

    def _apart(self, candidates: Candidates, scores: np.ndarray, statistics: MiningStatistics) -> Candidates:
        """Without the negatives that score above positive - absolute, or above relative times the positive."""
        if np.shape(scores) != (len(candidates),):
            raise ValueError(f"{np.shape(scores)} scores for {len(candidates)} candidates")
        positive = candidates.role == Role.POSITIVE
        limit = np.full(len(candidates), np.nan)
        for first, last in zip(candidates.offsets[:-1], candidates.offsets[1:], strict=True):
            own = scores[first:last][positive[first:last]]
            if len(own):
                limit[first:last] = self._limit(float(np.fmin.reduce(own)))
        close = ~positive & (scores > limit)  # False against NaN: without a positive's score there is no margin
        statistics.margin = int((close & (candidates.role == Role.HARD)).sum())
        statistics.random_margin = int((close & (candidates.role == Role.RANDOM)).sum())
        return candidates.keep(~close)

    def _limit(self, positive: float) -> float:
        ((kind, margin),) = dict(self.margin or {}).items()
        if kind == "absolute":
            return positive - margin
        # ``positive * margin`` for positive scores; for logits below 0 it must be further down, not up.
        return positive - (1 - margin) * abs(positive)

    def _count(self, candidates: Candidates, statistics: MiningStatistics) -> None:
        roles = candidates.count_by_role()
        negative = np.concatenate([[0], np.cumsum(candidates.role != Role.POSITIVE)])[candidates.offsets]
        statistics.queries = len(candidates.query_ids)
        statistics.too_short = int((np.diff(negative) < self.per_query).sum())
        statistics.positives = roles.get(Role.POSITIVE, 0)
        statistics.hard = roles.get(Role.HARD, 0)
        statistics.random = roles.get(Role.RANDOM, 0)


@dataclass(frozen=True)
class _Lists:
    """The lists before the teacher has a word, one query at a time."""

    rules: HardNegatives
    judgements: Judgements
    passages: PassageTexts
    absent: frozenset[str]
    mining_round: int
    statistics: MiningStatistics

    def of(self, run: Run) -> Iterator[tuple[str, list[Candidate]]]:
        for query_id, ids, _ in track(run, "mine", total=len(run)):
            ranked = ids.tolist()
            generator = np.random.default_rng(int(text_digest(str(self.rules.seed), query_id), 16))
            judged = self.judgements.get(query_id, {})
            known = {passage_id for passage_id, relevance in judged.items() if relevance > 0}
            if self.rules.consistent is not None and not known.intersection(ranked[: self.rules.consistent]):
                self.statistics.inconsistent += 1
                continue
            positives = self._positives(judged, known, ranked)
            hard = self._hard(query_id, ranked, known, generator if positives else None)
            mined = [self._candidate(ranked[rank - 1], Role.HARD, rank, judged) for rank in hard]
            taken = {query_id, *known, *(one.passage_id for one in mined)}
            drawn = [self._candidate(one, Role.RANDOM, 0, judged) for one in self._random(taken, generator)]
            self.statistics.unlabelled += not positives
            if positives or mined or drawn:
                yield query_id, positives + mined + drawn
            else:
                self.statistics.without_list += 1

    def _candidate(self, passage_id: str, role: Role, rank: int, judged: Mapping[str, int]) -> Candidate:
        source = SOURCES.get(role) or self.statistics.source
        return Candidate(passage_id, role, rank, source, self.mining_round, judged.get(passage_id, 0))

    def _positives(self, judged: Mapping[str, int], known: set[str], ranked: list[str]) -> list[Candidate]:
        ranks = {passage_id: rank for rank, passage_id in enumerate(ranked, 1) if passage_id in known}
        present = known - self.absent
        order = sorted(present, key=lambda one: (-judged[one], ranks.get(one, len(ranked) + 1), one))
        kept = order[: self.rules.positives]
        self.statistics.unknown_positives += len(known) - len(present)
        self.statistics.positives_beyond_limit += len(order) - len(kept)
        return [self._candidate(one, Role.POSITIVE, ranks.get(one, 0), judged) for one in kept]

    def _hard(
        self, query_id: str, ranked: list[str], known: set[str], generator: np.random.Generator | None
    ) -> list[int]:
        """Ranks of the passages taken, ascending, the first ones without a generator; every other one is counted."""
        first, last = self.rules.window
        inside = ranked[first - 1 : last]
        statistics, eligible = self.statistics, []
        statistics.retrieved += len(ranked)
        statistics.outside_window += len(ranked) - len(inside)
        for rank, passage_id in enumerate(inside, first):
            if passage_id in known:
                statistics.known_positive += 1
            elif passage_id == query_id:
                statistics.identical += 1
            elif passage_id in self.absent:
                statistics.unknown += 1
            else:
                eligible.append(rank)
        pool = self.rules.pool
        statistics.not_drawn += max(0, len(eligible) - pool)
        if len(eligible) <= pool or generator is None:
            return eligible[:pool]
        return sorted(generator.choice(eligible, pool, replace=False).tolist())

    def _random(self, taken: set[str], generator: np.random.Generator) -> list[str]:
        """Passages of the collection, uniformly, without those taken; as many more are drawn as could fall away."""
        if not self.rules.random:
            return []
        size = min(self.rules.random + len(taken), len(self.passages))
        ids = self.passages.ids(generator.choice(len(self.passages), size, replace=False))
        return [passage_id for passage_id in ids if passage_id not in taken][: self.rules.random]


def _absent(run: Run, judgements: Judgements, passages: PassageTexts) -> frozenset[str]:
    """Ids in the run or judged relevant that the collection does not hold."""
    ids = dict.fromkeys(run.passage_ids.tolist())
    for query_id in run.query_ids:
        ids.update(dict.fromkeys(judgements.get(query_id, ())))
    every = list(ids)
    return frozenset(every[row] for row in np.flatnonzero(passages.rows(every) < 0).tolist())


def _listed(title: str, counts: Mapping[str, int]) -> list[str]:
    found = [f"{count:,} {what}" for what, count in counts.items() if count]
    return [f"{title}: {', '.join(found)}"] if found else []


def _short(source: str) -> str:
    """The name of a run or file; that of its run for a student's ``model`` folder."""
    path = Path(source)
    return path.parent.name if path.name == "model" and path.parent.name else path.name
