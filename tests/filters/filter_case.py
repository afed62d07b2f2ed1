"""Two queries with scores of two members; shared by the tests of filters."""

import torch

from retrieval_kd.contracts import Evidence, Role, Signals

NAN = float("nan")
POSITIVE, HARD, NONE = int(Role.POSITIVE), int(Role.HARD), int(Role.NONE)
ROLE = torch.tensor([[POSITIVE, HARD, HARD, HARD, NONE], [HARD, NONE, HARD, POSITIVE, HARD]], dtype=torch.int8)
LOGITS = torch.tensor([[2.0, 3.0, 0.0, -4.0, NAN], [-1.0, NAN, 1.5, 1.0, -2.0]])
SIMILARITIES = torch.tensor([[20.0, 5.0, 30.0, 1.0, NAN], [2.0, NAN, 14.0, 12.0, 13.0]])
LOGIT = {"teacher": "logit"}


def make_signals(*members, role=ROLE):
    positive = role == POSITIVE
    positive[0, 3] = False
    return Signals(
        positive=positive,
        role=role,
        scores=torch.full(role.shape, NAN),
        members=torch.stack(members) if members else torch.empty(0, *role.shape),
        pairs=torch.empty((0, 3), dtype=torch.int64),
        log_odds=torch.empty(0),
    )


def make_evidence(similarities=None):
    """Without similarities, whoever asks for them fails."""
    return Evidence({"rows": similarities}, {}, lambda queries, _: queries["rows"])
