"""What a filter took of a batch, for the log, and one warning when it takes everything that a query has."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from retrieval_kd.contracts import Signals
from retrieval_kd.filters.member_scores import own_negatives

log = logging.getLogger(__name__)


class Account:
    """Counts over the queries' own lists; ``advice`` says what would leave more."""

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.figures: dict[str, Tensor] = {}
        self._warned = False

    def take(self, kept: Tensor, signals: Signals, more: Mapping[str, Tensor]) -> None:
        """Note what a batch lost, beside other figures of the filter."""
        own = own_negatives(signals)
        lost = own & ~kept
        emptied = own.any(-1) & (lost == own).all(-1)
        self.figures = {
            **more,
            "filter_share": lost.sum() / own.sum().clamp_min(1),
            "filter_emptied": emptied.sum(),
        }

    def warn(self) -> None:
        """Say so once, at the first query that has no negative of its own left."""
        if self._warned or not self.figures or not bool(self.figures["filter_emptied"] > 0):
            return
        self._warned = True
        log.warning(
            "filter: %d queries of a batch lost every negative of their own list (%.0f %% of all were dropped); without"
            " negatives of other queries they teach nothing by hard labels. %s would leave more; said once",
            int(self.figures["filter_emptied"]),
            100 * float(self.figures["filter_share"]),
            self.advice,
        )


def of_members(name: str, names: list[str], values: Tensor) -> dict[str, Tensor]:
    """Figures [M] by name, the member's behind it where there are several."""
    if len(names) == 1:
        return {name: values[0]}
    return {f"{name}_{member}": value for member, value in zip(names, torch.unbind(values), strict=True)}
