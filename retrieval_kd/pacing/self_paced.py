"""Self-pacing: the queries that the teacher is sure of come first, more of them as the training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import DARK_ROLES, Role, Signals, has_role
from retrieval_kd.functional.confidence import CONFIDENCES, mean_deviation, scattered
from retrieval_kd.functional.quantiles import threshold_of_share
from retrieval_kd.functional.ramps import linear

RANDOM = "random"
SELECTIONS = ("hard", "soft")
UNSURE = -1.0  # of a query about which nothing is said: below all others
EMPTY = -2.0  # a place in the memory that holds nothing yet; not NaN, which no comparison of checkpoints finds equal
TIE = 1e-9  # equal confidences are told apart by so much at most


class SelfPaced(nn.Module):
    """A weight per query from the teacher's confidence, after ADAM (https://arxiv.org/abs/2212.10192).

    A reconstruction: the paper's formulas could not be read. Confidence is computed from the members' raw scores of the
    passages that were found, each member's by itself, and averaged. Hard selection gives weight 1 to the queries whose
    confidence is among the highest of those seen lately, as many as the schedule's share, and 0 to the others; soft
    selection gives (1 - share) * confidence + share. Either way a share of 1 is weight 1 for all. A query of which the
    confidence cannot be told (no scored positive, where one is asked for) is the last to be taken.

    Args:
        confidence: probability | top | margin | certainty, see ``functional.confidence``; ``random`` selects by chance
            and keeps all else, for a control.
        selection: hard | soft.
        share: Of the queries: ``start``, ``end``, and ``until``, the share of the training at which it gets there.
        temperature: Divides raw scores; one number, or one for each member by name. None: the mean standard deviation
            of a member's scores within the lists of the batch, for scores that have no scale of their own.
        memory: Confidences that are remembered to rank a query among; see ``step``.
        seed: Of what is random; equal confidences are ordered by it, too.
        members: Names of the teacher's members, in the order of their scores.
    """

    seen: Tensor  # [memory] float64, EMPTY where there is none yet
    place: Tensor  # [] int64, where the next one goes

    def __init__(
        self,
        confidence: str,
        selection: str,
        share: Mapping[str, float],
        temperature: float | Mapping[str, float] | None,
        memory: int,
        seed: int,
        members: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if confidence not in (*CONFIDENCES, RANDOM):
            raise ValueError(f"pacing.confidence is one of {', '.join((*CONFIDENCES, RANDOM))}, got {confidence}")
        if selection not in SELECTIONS:
            raise ValueError(f"pacing.selection is {' or '.join(SELECTIONS)}, got {selection}")
        if memory < 1:
            raise ValueError(f"pacing.memory must be at least 1, got {memory}")
        self.confidence = confidence
        self.selection = selection
        self.start, self.end, self.until = _checked_share(share)
        self.temperatures = _checked_temperatures(temperature, members)
        self.seed = seed
        self.register_buffer("seen", torch.full((memory,), EMPTY, dtype=torch.float64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.figures: dict[str, Tensor] = {}

    @torch.no_grad()
    def forward(self, signals: Signals, progress: float) -> Tensor:
        """[Q] float32, no gradient; ``figures`` holds what is logged of it."""
        share = linear(progress, self.until, self.start, self.end)
        confidence = self.confidences(signals)
        figures = {}
        if self.selection == "hard":
            ranks = self._ranks(signals, confidence)
            figures["pacing_threshold"] = threshold_of_share(torch.cat([self._remembered, ranks]), share)
            weight = (ranks >= figures["pacing_threshold"]).double()
        else:
            weight = (1 - share) * confidence.nan_to_num(0.0) + share
        told = ~confidence.isnan()
        kept = weight * told
        self.figures = figures | {
            "pacing_share": torch.tensor(share),
            "pacing_weight": weight.mean(),
            "pacing_confidence": (confidence.nan_to_num(0.0) * kept).sum() / kept.sum(),
            "pacing_untold": (~told).double().mean(),
        }
        return weight.float()

    @torch.no_grad()
    def step(self, signals: Signals, progress: float) -> None:
        """Remember a batch's confidences, in the place of the oldest."""
        ranks = self._ranks(signals, self.confidences(signals))[-len(self.seen) :]
        places = (self.place + torch.arange(len(ranks), device=ranks.device)) % len(self.seen)
        self.seen[places] = ranks
        self.place.copy_((self.place + len(ranks)) % len(self.seen))

    def confidences(self, signals: Signals) -> Tensor:
        """[Q] float64, from 0 to 1; NaN where nothing is said."""
        listed = _listed(signals)
        if self.confidence == RANDOM:
            return scattered(signals.members, listed, self.seed)
        scores = signals.members.detach().double().nan_to_num(0.0) / self._divisors(signals.members, listed)
        return CONFIDENCES[self.confidence](scores, signals.target.expand_as(listed), listed).nanmean(0)

    @property
    def _remembered(self) -> Tensor:
        return self.seen.masked_fill(self.seen == EMPTY, torch.nan)

    def _ranks(self, signals: Signals, confidence: Tensor) -> Tensor:
        """Confidences without ties, those that cannot be told below all others."""
        chance = scattered(signals.members, _listed(signals), self.seed + 1)
        return confidence.nan_to_num(UNSURE) + TIE * chance

    def _divisors(self, members: Tensor, listed: Tensor) -> Tensor:
        """[M or 1, 1, 1]."""
        if self.temperatures is None:
            spread = mean_deviation(members.detach(), listed)
            return torch.where(spread > 0, spread, 1.0).view(-1, 1, 1)
        return torch.tensor(self.temperatures, dtype=torch.float64, device=members.device).view(-1, 1, 1)


def _listed(signals: Signals) -> Tensor:
    """[M, Q, P] scored candidates that were found; the batch's other passages are nobody's list."""
    found = (signals.role != Role.NONE) & ~has_role(signals.role, DARK_ROLES)
    return found & ~signals.members.isnan()


def _checked_share(share: Mapping[str, float]) -> tuple[float, float, float]:
    names = ("start", "end", "until")
    if set(share) != set(names):
        raise ValueError(f"pacing.share has {', '.join(names)}, got {', '.join(map(str, share)) or 'nothing'}")
    for name in names:
        if not 0 <= share[name] <= 1:
            raise ValueError(f"pacing.share.{name} is from 0 to 1, got {share[name]}")
    return share["start"], share["end"], share["until"]


def _checked_temperatures(
    temperature: float | Mapping[str, float] | None, members: Sequence[str]
) -> list[float] | None:
    if temperature is None:
        return None
    if not isinstance(temperature, Mapping):
        values = {"": temperature}
    else:
        known = ", ".join(members)
        for name in temperature:
            if name not in members:
                raise ValueError(f"pacing.temperature.{name}: there is no such member; the members are {known}")
        absent = [name for name in members if name not in temperature]
        if absent:
            raise ValueError(f"pacing.temperature: no number for {', '.join(absent)}; give one, or one for each member")
        values = {f".{name}": temperature[name] for name in members}
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"pacing.temperature{name} must be a number > 0, got {value}")
    return list(values.values())
