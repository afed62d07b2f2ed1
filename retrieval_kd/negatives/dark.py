"""Dark passages: negatives strengthened by words of the positive, and positives with words hidden.

They are hard for a teacher to tell from the positive, so that what it says of a list is more than which passage is the
best one: its dark knowledge. After ADAM (https://arxiv.org/abs/2212.10192); a reconstruction, for the paper's formulas
could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from retrieval_kd.contracts import DARK_ROLES, TARGET_ROLES, PassageTexts, Role, UserError
from retrieval_kd.data.candidates import Candidate, CandidateList, Candidates
from retrieval_kd.data.files import text_digest
from retrieval_kd.data.made_passages import made_id
from retrieval_kd.data.pieces import Cutter, Pieces, put_together
from retrieval_kd.data.progress import track
from retrieval_kd.functional.token_edits import Reinforce, append, delete, interleave, mask, splice

VARIANTS: dict[str, Reinforce] = {"span": splice, "append": append, "words": interleave, "sentences": interleave}
WEAKEN = ("mask", "delete")
SOURCES = {Role.DARK_REINFORCED: "reinforced", Role.DARK_MASKED: "masked"}
TOGETHER = 256  # queries whose passages are cut at once
HIDDEN = -1


class Made(NamedTuple):
    """A passage that was made, and of what."""

    passage_id: str
    text: str
    role: Role
    base: str  # the passage that was changed
    positive: str
    share: float  # that was asked for


@dataclass
class DarkStatistics:
    """What came of the passages that were to be made."""

    queries: int = 0
    without_positive: int = 0  # queries of which none can be made
    without_negative: int = 0  # queries of which no negative can be strengthened
    reinforced: int = 0
    masked: int = 0
    unchanged: int = 0  # too short for a span or a mask
    repeated: int = 0  # the same text as another one of the list
    below: int = 0  # scored below the best negative: outside the band
    above: int = 0  # scored above the positive

    def lines(self) -> list[str]:
        """What happened, for a log."""
        made = f"{self.reinforced:,} negatives strengthened, {self.masked:,} positives masked"
        reasons = {
            "too short to be changed": self.unchanged,
            "made twice": self.repeated,
            "scored below the best negative": self.below,
            "scored above the positive": self.above,
        }
        dropped = [f"{count:,} {what}" for what, count in reasons.items() if count]
        said = [f"of {self.queries:,} queries: {made}"]
        said += [f"left out: {', '.join(dropped)}"] if dropped else []
        lacking = {"positive": self.without_positive, "hard negative": self.without_negative}
        return said + [f"{count:,} queries have no {what}" for what, count in lacking.items() if count]

    def as_dict(self) -> dict[str, int]:
        """All counts by name."""
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """How passages of one role are made."""

    count: int  # per query
    variant: str
    share: Sequence[float]  # the least and the most of the tokens that are changed, between which it is drawn

    def drawn(self, generator: np.random.Generator) -> float:
        """The share of one passage."""
        return float(generator.uniform(self.share[0], self.share[1]))


class DarkPassages:
    """Makes dark passages of mined lists; equal lists, seed and tokenizer give equal bytes.

    Args:
        reinforced: Of the hard negatives of the best ranks: ``count``, ``variant`` (``VARIANTS``), ``share``.
        masked: Of the positive: ``count``, ``variant`` (mask | delete), ``share``.
        max_length: Tokens, special ones included, of a passage that take part: those that the student reads.
        band: Whether those are dropped which the teacher scores below the best negative or above the positive.
        per_query: How many are drawn for a query's list, beside ``negatives.per_query`` found ones.
        seed: Its own, as that of the negatives.
        tokenizer: Fast; None to look at the settings only.
    """

    def __init__(
        self,
        reinforced: Mapping[str, Any],
        masked: Mapping[str, Any],
        max_length: int,
        band: bool,
        per_query: int,
        seed: int,
        tokenizer: Any,
    ) -> None:
        self.reinforced = _checked("reinforced", reinforced, tuple(VARIANTS))
        self.masked = _checked("masked", masked, WEAKEN)
        if not self.reinforced.count + self.masked.count:
            raise UserError("negatives.made: both counts are 0, so that none is made; negatives=hard would fit")
        if per_query < 1:
            raise UserError(f"negatives.made.per_query must be at least 1, not {per_query}; negatives=hard makes none")
        if tokenizer is not None and self.masks and tokenizer.mask_token_id is None:
            raise UserError(
                f"{tokenizer.name_or_path} has no mask token;"
                " negatives.made.masked.variant=delete, or negatives.made.masked.count=0, would fit"
            )
        self.band = band
        self.seed = seed
        self.cut = None if tokenizer is None else Cutter(tokenizer, max_length)

    @property
    def masks(self) -> bool:
        """Whether passages have hidden parts, for which everybody who reads them needs a mask token."""
        return self.masked.count > 0 and self.masked.variant == "mask"

    def make(
        self,
        candidates: Candidates,
        passages: PassageTexts,
        statistics: DarkStatistics,
        titles: Mapping[str, str] | None = None,
    ) -> Iterator[tuple[CandidateList, list[Made]]]:
        """Every list, with what was made for it; made texts differ from each other and from what they are made of.

        ``titles`` of those passages that begin with one stay as they are, and are put into no other passage.
        """
        lists = list(candidates.lists())
        for start in track(range(0, len(lists), TOGETHER), "darken"):
            some = lists[start : start + TOGETHER]
            ids = self.bases(some)
            assert self.cut is not None
            texts = passages.texts(passages.rows(ids))
            title = [_title(text, (titles or {}).get(name, "")) for name, text in zip(ids, texts, strict=True)]
            pieces = dict(zip(ids, self.cut(texts, title), strict=True))
            for one in some:
                yield one, self._made(one, pieces, statistics)

    def bases(self, lists: Iterable[CandidateList]) -> list[str]:
        """The passages of which others are made, each once."""
        return list(dict.fromkeys(name for one in lists for name in (*_targets(one), *self._bases(one))))

    def _bases(self, one: CandidateList) -> list[str]:
        return [name for name, role in zip(one.passage_ids, one.role, strict=True) if role == Role.HARD][
            : self.reinforced.count
        ]

    def _made(self, one: CandidateList, pieces: Mapping[str, Pieces], statistics: DarkStatistics) -> list[Made]:
        targets, made = _targets(one), dict[str, Made]()
        statistics.queries += 1
        statistics.without_positive += not targets
        if not targets:
            return []
        statistics.without_negative += self.reinforced.count > 0 and not self._bases(one)
        generator = np.random.default_rng(int(text_digest(str(self.seed), one.query_id), 16))
        taken = {pieces[name].text for name in (*targets, *self._bases(one))}
        for role, base, positive, share in self._orders(one, targets, generator):
            text = self._text(role, pieces[base], pieces[positive], share, generator)
            if not text or text == pieces[base].text:
                statistics.unchanged += 1
            elif text in taken or made_id(text) in made:
                statistics.repeated += 1
            else:
                made[made_id(text)] = Made(made_id(text), text, role, base, positive, share)
        statistics.reinforced += sum(each.role == Role.DARK_REINFORCED for each in made.values())
        statistics.masked += sum(each.role == Role.DARK_MASKED for each in made.values())
        return list(made.values())

    def _orders(
        self, one: CandidateList, targets: Sequence[str], generator: np.random.Generator
    ) -> Iterator[tuple[Role, str, str, float]]:
        """What is to be made: role, the passage to change, the positive, the share."""
        for base in self._bases(one):
            positive = targets[int(generator.integers(len(targets)))]
            yield Role.DARK_REINFORCED, base, positive, self.reinforced.drawn(generator)
        for _ in range(self.masked.count):
            positive = targets[int(generator.integers(len(targets)))]
            yield Role.DARK_MASKED, positive, positive, self.masked.drawn(generator)

    def _text(self, role: Role, base: Pieces, positive: Pieces, share: float, generator: np.random.Generator) -> str:
        own = list(range(len(base)))
        if role == Role.DARK_REINFORCED:
            theirs = list(range(len(base), len(base) + len(positive)))
            cuts = (base.words, positive.words)
            if self.reinforced.variant == "sentences":
                cuts = (base.sentences, positive.sentences)
                if len(cuts[0]) < 2:
                    return base.text  # all of it would be the positive
            order = VARIANTS[self.reinforced.variant](own, theirs, share, generator, *cuts)
            return base.text if order == own else put_together(order, base, positive)
        if self.masked.variant == "delete":
            left = delete(own, share, generator)
            return base.text if left == own else put_together(left, base, base)
        shown = mask(own, share, generator, HIDDEN)
        return base.hiding([place for place, token in enumerate(shown) if token == HIDDEN])


def with_made(one: CandidateList, made: Sequence[Made]) -> list[Candidate]:
    """A list with what was made for it behind the rest."""
    found = one.candidates()
    return found + [Candidate(each.passage_id, each.role, 0, SOURCES[each.role], found[0].round, 0) for each in made]


def outside_band(candidates: Candidates, scores: np.ndarray, statistics: DarkStatistics) -> np.ndarray:
    """Made candidates [n] that the teacher scores below their list's best hard negative, or above its best positive.

    One without a score, or in a list where nothing scored tells the band, stays.
    """
    dark, outside = np.isin(candidates.role, DARK_ROLES), np.zeros(len(candidates), bool)
    below = above = 0
    for first, last in zip(candidates.offsets[:-1], candidates.offsets[1:], strict=True):
        own, role = scores[first:last], candidates.role[first:last]
        low = np.fmax.reduce(own[role == Role.HARD], initial=-np.inf)
        high = np.fmax.reduce(own[np.isin(role, TARGET_ROLES)], initial=-np.inf)
        too_low = dark[first:last] & (own < low)
        too_high = dark[first:last] & (own > (np.inf if high == -np.inf else high)) & ~too_low
        outside[first:last] = too_low | too_high
        below, above = below + int(too_low.sum()), above + int(too_high.sum())
    statistics.below, statistics.above = below, above
    kept = candidates.role[~outside]
    statistics.reinforced = int((kept == Role.DARK_REINFORCED).sum())
    statistics.masked = int((kept == Role.DARK_MASKED).sum())
    return outside


def _title(text: str, title: str) -> int:
    """How many characters a text begins with that are its title."""
    return len(title) if text.startswith(title) else 0


def _targets(one: CandidateList) -> list[str]:
    return [name for name, role in zip(one.passage_ids, one.role, strict=True) if role in TARGET_ROLES]


def _checked(name: str, settings: Mapping[str, Any], variants: Sequence[str]) -> Kind:
    key = f"negatives.made.{name}"
    if set(settings) != {"count", "variant", "share"}:
        raise UserError(f"{key} has count, variant, share, not {', '.join(map(str, settings)) or 'nothing'}")
    kind = Kind(**settings)
    if kind.count < 0:
        raise UserError(f"{key}.count must be at least 0, not {kind.count}")
    if kind.variant not in variants:
        raise UserError(f"{key}.variant is {' or '.join(variants)}, not {kind.variant}")
    share = list(kind.share) if isinstance(kind.share, Sequence) else []
    if len(share) != 2 or not 0 <= share[0] <= share[1] <= 1:
        raise UserError(f"{key}.share: [least, most] of the tokens, 0 <= least <= most <= 1, not {kind.share}")
    return kind
