"""Three queries against six passages with every kind of role; shared by the tests of the objectives."""

import torch

from retrieval_kd.contracts import Evidence, Role, Signals

NAN = float("nan")
NONE, POSITIVE, HARD = Role.NONE, Role.POSITIVE, Role.HARD
ROLE = torch.tensor(
    [
        [POSITIVE, HARD, HARD, NONE, NONE, NONE],
        [NONE, POSITIVE, HARD, Role.RANDOM, Role.DARK_MASKED, NONE],
        [HARD, NONE, NONE, HARD, NONE, Role.PSEUDO_POSITIVE],
    ],
    dtype=torch.int8,
)
SCORES = torch.tensor(
    [
        [2.0, 0.5, NAN, NAN, NAN, NAN],
        [NAN, 1.0, -1.0, 0.25, 0.75, NAN],
        [0.5, NAN, NAN, -0.5, NAN, 1.5],
    ]
)
# Passage 3 is a known positive of query 0 that is no candidate of it.
POSITIVES = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1]], dtype=torch.bool)


def make_signals(role=ROLE, scores=SCORES, positive=POSITIVES):
    return Signals(
        positive=positive,
        role=role,
        scores=scores,
        members=torch.empty(0, *role.shape),
        pairs=torch.empty((0, 3), dtype=torch.int64),
        log_odds=torch.empty(0),
    )


def make_evidence(similarities):
    return Evidence({"rows": similarities}, {}, lambda queries, _: queries["rows"])


def make_negative(signals):
    """As the training step makes it, with a filter that keeps everything."""
    return ~signals.positive & ~signals.dark


def value_and_gradient(objective, signals=None, negative=None, weight=None, similarities=None):
    signals = make_signals() if signals is None else signals
    similarities = torch.randn(signals.role.shape, generator=torch.Generator().manual_seed(4)) * 0.1
    similarities.requires_grad_()
    negative = make_negative(signals) if negative is None else negative
    weight = torch.ones(len(signals.role)) if weight is None else weight
    value = objective(make_evidence(similarities), signals, negative, weight)
    value.backward()
    return value.item(), similarities.grad, similarities.detach().tolist()
