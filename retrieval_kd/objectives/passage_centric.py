"""The passage-centric relation: a positive shall be nearer to its query than to negative passages."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from retrieval_kd.contracts import Evidence, Role, Signal, Signals
from retrieval_kd.functional.divergence import mean_over_queries
from retrieval_kd.functional.passage_centric import against


class Case(NamedTuple):
    """What a form reads of a batch; ``query`` and ``positive`` [K] say where the pairs stand."""

    query_passage: Tensor  # [Q, P], divided by the temperature as all similarities here
    passage_passage: Tensor  # [P, P]
    query: Tensor
    positive: Tensor
    negative: Tensor  # [Q, P]
    found: Tensor  # [P] bool, in somebody's list and not as his positive


Block = tuple[Tensor, Tensor]


def paper(case: Case) -> list[Block]:
    """Negative passages only, those that some list of the batch holds as such: never another query's positive."""
    passages = case.passage_passage[case.positive]
    return [(passages, case.negative[case.query] & case.found)]


def released(case: Case) -> list[Block]:
    """As the released code has it: the batch's other queries stand in the denominator too."""
    return [*paper(case), (case.query_passage.T[case.positive], case.negative.T[case.positive])]


def joint(case: Case) -> list[Block]:
    """One softmax for both relations, all negatives of the batch against the query and against its positive."""
    kept = case.negative[case.query]
    return [(case.query_passage[case.query], kept), (case.passage_passage[case.positive], kept)]


FORMS: dict[str, Callable[[Case], list[Block]]] = {"paper": paper, "released": released, "joint": joint}


class PassageCentric(nn.Module):
    """Negatives pushed away from the positive passage, hard labels only; for students with one space for both sides.

    After PAIR (Ren et al., 2021, https://arxiv.org/abs/2108.06027) and, with ``joint``, SimLM (Wang et al., 2022,
    https://arxiv.org/abs/2207.02578).

    Args:
        temperature: Divides similarities.
        form: ``paper``; ``released``, as PAIR's code; or ``joint``, which has the contrastive term in it.
        in_batch: Whether negatives of other queries' lists count; ``False`` keeps to the query's own candidates.
    """

    needs: ClassVar[frozenset[Signal]] = frozenset({Signal.JUDGEMENTS})
    shared_space: ClassVar[bool] = True

    def __init__(self, temperature: float, form: str, in_batch: bool) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"objective.passage_centric.temperature must be > 0, got {temperature}")
        if form not in FORMS:
            raise ValueError(f"objective.passage_centric.form is {', '.join(FORMS)}, got {form}")
        if form == "released" and not in_batch:
            raise ValueError(
                "objective.passage_centric.form=released has other queries as negatives, which in_batch=false leaves"
                " out; form=paper or in_batch=true would fit"
            )
        self.temperature = temperature
        self.form = form
        self.in_batch = in_batch

    def forward(self, evidence: Evidence, signals: Signals, negative: Tensor, weight: Tensor) -> Tensor:
        """A query that has no negative left is not counted; every other one is, whatever its pacing."""
        target = signals.target
        negative = negative & ~target
        if not self.in_batch:
            negative = negative & (signals.role != Role.NONE)
        query, positive = target.nonzero().unbind(1)
        case = Case(
            evidence.query_passage / self.temperature,
            evidence.passage_passage / self.temperature,
            query,
            positive,
            negative,
            ((signals.role == Role.HARD) | (signals.role == Role.RANDOM)).any(0),
        )
        blocks = FORMS[self.form](case)
        losses = against(case.query_passage[query, positive], blocks)
        opposed = torch.stack([mask.any(-1) for _, mask in blocks]).any(0)
        count = torch.bincount(query[opposed], minlength=len(target))
        total = losses.new_zeros(len(target)).index_add(0, query, losses)  # 0 where nothing is opposed
        return mean_over_queries(total / count.clamp_min(1), count > 0, torch.ones_like(weight))
