"""What the parts lean on: the words of the project as types, and the Protocols where layers meet.

Size letters, here and everywhere: Q queries, P distinct passages of a batch, K pairs, M teacher members, N texts,
L tokens, D dimensions, V vocabulary. Nothing heavy is imported: configuration and stores need no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor


class UserError(Exception):
    """A mistake of the user, told in one line that names the file and line, or the key; the CLI exits with 2."""


class Role(IntEnum):
    """What a passage is to the query whose candidate list holds it."""

    NONE = -1  # in the batch because of another query
    POSITIVE = 0
    HARD = 1
    RANDOM = 2
    PSEUDO_POSITIVE = 3
    DARK_REINFORCED = 4
    DARK_MASKED = 5


TARGET_ROLES = (Role.POSITIVE, Role.PSEUDO_POSITIVE)  # what hard labels take for relevant
DARK_ROLES = (Role.DARK_REINFORCED, Role.DARK_MASKED)


def has_role(role: Any, roles: Sequence[Role]) -> Any:
    """Where one of a few roles stands, as bool, in a tensor or an array; several comparisons cost less than isin."""
    found = role == roles[0]
    for other in roles[1:]:
        found = found | (role == other)
    return found


class Signal(StrEnum):
    """What a teacher can give and an objective can need."""

    SCORE = "score"
    PREFERENCE = "preference"
    ATTENTION = "attention"
    FEATURES = "features"
    JUDGEMENTS = "judgements"  # hard labels: given by the collection, not by a teacher


class ScoreKind(StrEnum):
    """What a raw score means; conversions are explicit, temperatures belong to the objective."""

    LOGIT = "logit"
    LOG_ODDS = "log_odds"
    SIMILARITY = "similarity"
    PROBABILITY = "probability"


class Side(StrEnum):
    """Which of the two texts an encoder is given: prompts, lengths and weights may differ."""

    QUERY = "query"
    PASSAGE = "passage"


class Passage(NamedTuple):
    """One passage as its source gives it."""

    id: str
    title: str
    text: str


class Source(Protocol):
    """Where a collection comes from: a folder, installed packages, a catalogue."""

    name: str

    def digest(self) -> str:
        """Name the content: equal content, equal digest (cheap when the files are unchanged)."""

    def splits(self) -> Sequence[str]:
        """Splits that have queries, training first."""

    def passages(self) -> Iterator[Passage]:
        """Stream every passage."""

    def queries(self, split: str) -> Mapping[str, str]:
        """Text by query id, in a fixed order."""

    def judgements(self, split: str) -> Mapping[str, Mapping[str, int]] | None:
        """Relevance by query id and passage id; None where the split has no judgements at all."""


class Hits(NamedTuple):
    """What an engine found, best first; row -1 where a query has fewer than k."""

    rows: np.ndarray  # [Q, k] int64, rows of the passage store
    scores: np.ndarray  # [Q, k] float32


class Scorer(Protocol):
    """A teacher member that scores aligned (query, passage) texts; raw scores of one kind."""

    kind: ScoreKind
    stored: bool  # whether the score store keeps what it says; a file of scores need not be kept twice

    @property
    def fingerprint(self) -> str:
        """Everything a stored score depends on: model, weights, template, lengths, precision."""

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N], entry n for (queries[n], passages[n])."""


class PairScorer(Protocol):
    """A judge of pairs: raw log-odds that the first passage it reads answers the query better than the second."""

    kind: ScoreKind
    stored: bool  # as of a ``Scorer``

    @property
    def fingerprint(self) -> str:
        """Everything a stored preference depends on."""

    def score(self, queries: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> np.ndarray:
        """float32 [N], entry n for (queries[n], firsts[n], seconds[n]) in this order."""


@runtime_checkable
class ScoreJudge(Protocol):
    """A judge of pairs that reads no text: two scores of the score teacher are all that it knows."""

    def prefer(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Log-odds [N] of left over right, from teacher scores [N] of both."""


@runtime_checkable
class VectorScorer(Protocol):
    """A teacher member whose score is an inner product of stored vectors: it encodes texts, never pairs."""

    kind: ScoreKind

    @property
    def fingerprint(self) -> str:
        """Everything a stored vector depends on."""

    def encode(self, texts: Sequence[str], side: Side) -> np.ndarray:
        """float32 [N, D]; the inner product of a query's and a passage's row is the score."""


class ScoreTeacher(Protocol):
    """What `teacher=` builds: named members whose raw scores are stored, and a rule that combines one list."""

    members: Mapping[str, Scorer | VectorScorer]

    def combine(self, members: np.ndarray, dark: np.ndarray) -> np.ndarray:
        """Raw scores [M, n] of one query's list -> teacher scores [n]; ``dark`` [n] marks made passages."""


class WordPairs(NamedTuple):
    """n pairs of a query and a passage as token ids, without special tokens, padded behind their lengths."""

    queries: Tensor  # [n, I] int64
    query_lengths: Tensor  # [n] int64
    passages: Tensor  # [n, J] int64
    passage_lengths: Tensor  # [n] int64


class Attention(NamedTuple):
    """What a cross-encoder pays to the other text, as its softmax over the whole pair left it; H is 1 for averages."""

    to_passage: Tensor  # [n, H, I, J] float32, from the query's tokens; rows sum to less than 1, 0 behind lengths
    to_query: Tensor  # [n, H, J, I] float32, from the passage's tokens
    read: Tensor  # [n] int64, how many tokens of the passage the teacher had room for


class WhiteBox(Protocol):
    """A cross-encoder of the student's own tokens that tells what is within, without dropout and without a gradient."""

    def attention(self, pairs: WordPairs, averaged: bool) -> Attention:
        """Of its last layer; all heads, or their mean."""

    def features(self, pairs: WordPairs) -> Tensor:
        """float32 [n, D], its last state of the first token."""


class PairTeacher(ScoreTeacher, Protocol):
    """What `teacher=pairwise` builds: a score teacher, and a judge of the pairs that are drawn by its scores."""

    judge: Any  # a PairScorer, a ScoreJudge, or a file that holds the pairs themselves
    both_orders: bool  # whether the judge reads each pair twice, either passage first


Representations = dict[str, "Tensor"]
"""What a student makes of N texts: named tensors that all have leading size N (``{"vectors": [N, D]}``).

Where texts differ in size (active terms, token vectors) there are ``lengths`` [N], and the other tensors are padded
along their second dimension; on disk they lie flat, one text behind the other, with ``offsets`` [N + 1].

Where a term of the objective asks a white box, students add in training ``words`` [N, L, D], the states of the tokens
that texts are made of (without special ones and prompts), their ``word_ids`` [N, L] and ``word_lengths`` [N].
"""


@dataclass(frozen=True, slots=True)
class TokenGroup:
    """Texts of like length, padded together."""

    input_ids: Tensor  # [n, L] int64
    attention_mask: Tensor  # [n, L] int64

    def to(self, device: torch.device | str) -> TokenGroup:
        """Copy on ``device``."""
        return TokenGroup(
            self.input_ids.to(device, non_blocking=True), self.attention_mask.to(device, non_blocking=True)
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """N tokenized texts in groups of like length; ``order[i]`` is the text that row i of their concatenation holds."""

    groups: tuple[TokenGroup, ...]
    order: Tensor  # [N] int64, a permutation

    def to(self, device: torch.device | str) -> Tokens:
        """Copy on ``device``."""
        return Tokens(tuple(group.to(device) for group in self.groups), self.order.to(device, non_blocking=True))


@dataclass(frozen=True, slots=True)
class Signals:
    """What is known of a batch without the student: judgements, roles, and what the teacher said."""

    positive: Tensor  # [Q, P] bool, every known positive, other rows' too
    role: Tensor  # [Q, P] int8, Role.NONE where p is not a candidate of q
    scores: Tensor  # [Q, P] float32, NaN where the teacher gave none
    members: Tensor  # [M, Q, P] float32, raw scores of each member, NaN where none
    pairs: Tensor  # [K, 3] int64: query, passage i, passage j
    log_odds: Tensor  # [K] float32, log P(i > j) / P(j > i)
    own: Tensor | None = None  # [T, Q, P] float32, scores of the teachers that T terms name for themselves

    def to(self, device: torch.device | str) -> Signals:
        """Copy on ``device``."""
        known = [getattr(self, field.name) for field in fields(self)]
        moved: list[Any] = [None if one is None else one.to(device, non_blocking=True) for one in known]
        return Signals(*moved)

    @property
    def dark(self) -> Tensor:
        """[P] bool: passages that were made, not found; they are nobody's hard-label negative."""
        made: Tensor = has_role(self.role, DARK_ROLES).any(0)
        return made

    @property
    def target(self) -> Tensor:
        """[Q, P] bool: the positives of each query's own list, judged ones and those that a teacher labelled."""
        target: Tensor = has_role(self.role, TARGET_ROLES)
        return target


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch: Q queries against the P distinct passages of their lists."""

    queries: Tokens
    passages: Tokens
    query_ids: tuple[str, ...]
    passage_ids: tuple[str, ...]
    passage_keys: Tensor  # [P] int64, equal for equal passages on every process
    known_positives: Tensor  # [Q, m] int64 passage keys, -1 where there are fewer than m
    signals: Signals

    def to(self, device: torch.device | str) -> Batch:
        """Copy on ``device``; Lightning finds this method by name."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("queries", "passages", "passage_keys", "known_positives", "signals")
        }
        return Batch(query_ids=self.query_ids, passage_ids=self.passage_ids, **moved)


class Evidence:
    """What the student knows of a batch, computed from representations, each once and only if asked."""

    def __init__(
        self,
        queries: Representations,
        passages: Representations,
        compare: Callable[[Representations, Representations], Tensor],
    ) -> None:
        self.queries = queries
        self.passages = passages
        self._compare = compare

    @cached_property
    def query_passage(self) -> Tensor:
        """[Q, P] similarities."""
        return self._compare(self.queries, self.passages)

    @cached_property
    def passage_passage(self) -> Tensor:
        """[P, P] similarities; meaningful for students with a shared space."""
        return self._compare(self.passages, self.passages)

    @cached_property
    def query_query(self) -> Tensor:
        """[Q, Q] similarities; meaningful for students with a shared space."""
        return self._compare(self.queries, self.queries)


class Engine(Protocol):
    """Holds what an encoder made of all passages, the arrays of which it is built with, and answers top-k."""

    def search(self, queries: Mapping[str, np.ndarray], k: int) -> Hits:
        """The k passages of highest score for each query's representation; equal scores in the order of rows."""


class Objective(Protocol):
    """A scalar from student evidence and teacher signals; an nn.Module without knowledge of processes or caching."""

    needs: frozenset[Signal]

    def __call__(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """``negative`` [Q, P] may serve as hard-label negatives; ``weight`` [Q], the pacing, is of soft labels."""


class Filter(Protocol):
    """Says which candidates may serve as hard-label negatives; an nn.Module, its state in buffers."""

    def __call__(self, evidence: Evidence, signals: Signals) -> Tensor:
        """[Q, P] bool, True where kept."""

    def step(self, evidence: Evidence, signals: Signals, progress: float) -> None:
        """Update the state, once per optimizer step."""


class Pacing(Protocol):
    """A weight per query from the teacher's confidence and progress; an nn.Module, its state in buffers."""

    def __call__(self, signals: Signals, progress: float) -> Tensor:
        """[Q] float32, no gradient."""

    def step(self, signals: Signals, progress: float) -> None:
        """Update the state, once per optimizer step."""


class Regularizer(Protocol):
    """A penalty on representations; an nn.Module whose schedule is a function of progress, its state in buffers."""

    def __call__(
        self, queries: Representations, passages: Representations, progress: float, signals: Signals
    ) -> Tensor:
        """Return a scalar."""

    def step(self, queries: Representations, passages: Representations, progress: float) -> None:
        """Update the state, once per optimizer step."""


class TextEncoder(Protocol):
    """What search, mining and bi-encoder teachers ask of a student."""

    @property
    def fingerprint(self) -> str:
        """Everything a representation depends on."""

    def encode_texts(self, texts: Sequence[str], side: Side) -> Representations:
        """Encode on the encoder's own device; float32, in the order given."""


class PassageTexts(Protocol):
    """Passages by row or id, looked up without loading the collection."""

    path: Path

    def __len__(self) -> int: ...

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """int64 [N] rows; -1 for an unknown id."""

    def ids(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Ids of rows."""

    def keys(self, rows: np.ndarray) -> np.ndarray:
        """int64 [N] hashes of the ids, equal for equal ids in every store and process."""

    def texts(self, rows: Sequence[int] | np.ndarray) -> list[str]:
        """Texts of rows, (title + " " + text).strip() unless titles are off."""
