"""Two thresholds that stay: what scores between them is uncertain, what scores above may well be a positive."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Signals
from retrieval_kd.filters.account import Account
from retrieval_kd.filters.member_scores import MemberScores, own_negatives
from retrieval_kd.functional.score_kinds import check_threshold
from retrieval_kd.functional.thresholds import exceeds_all


class Band(nn.Module):
    """Keeps what every member places below the band: RocketQA's denoised negatives (https://arxiv.org/abs/2010.08191).

    Nothing from within the band or above it is a negative; the log tells how much lies above, where a step of labels
    would find pseudo-positives. What has no score is kept.

    Args:
        members: What the teacher's raw scores mean, by member.
        by: Whose scores: ``teacher`` or ``student``.
        member: Of a teacher with several; None: all.
        kind: What the thresholds are of; raw scores are told as that.
        negative: Below it a passage is a negative.
        positive: Above it, it may be a positive.
    """

    def __init__(
        self,
        members: Mapping[str, str | None],
        by: str,
        member: str | None,
        kind: str,
        negative: float,
        positive: float,
    ) -> None:
        super().__init__()
        if not negative < positive:
            raise ValueError(
                f"filter.negative={negative:g} is not below filter.positive={positive:g}: negatives score below the"
                " first and positives above the second"
            )
        self.scores = MemberScores(by, member, kind, members, [f"filter.negative={negative:g}"])
        for name, value in (("negative", negative), ("positive", positive)):
            check_threshold(f"filter.{name}", value, self.scores.kinds[0])
        self.negative = negative
        self.positive = positive
        self.account = Account("A higher filter.negative")

    @property
    def figures(self) -> dict[str, Tensor]:
        """For the log: the share of own negatives that is dropped, that above the band, queries that have none left."""
        return self.account.figures

    def forward(self, evidence: Evidence, signals: Signals) -> Tensor:
        """[Q, P] bool, True where kept."""
        scores = self.scores(evidence, signals)
        known = ~scores.isnan()
        kept = ((scores < self.negative) | ~known).all(0)
        own = own_negatives(signals)
        above = exceeds_all(scores, scores.new_full((len(scores), 1, 1), self.positive)) & own
        self.account.take(kept, signals, {"filter_above_band": above.sum() / own.sum().clamp_min(1)})
        return kept

    def step(self, evidence: Evidence, signals: Signals, progress: float) -> None:
        """Nothing moves."""
        self.account.warn()
