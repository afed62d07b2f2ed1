"""A batch of sparse representations, and the lists that its passages stand in."""

import torch

from retrieval_kd.contracts import Role, Signals

N, P, H = Role.NONE, Role.POSITIVE, Role.HARD


def representations(count, terms=9, seed=0):
    values = torch.randn(count, terms, generator=torch.Generator().manual_seed(seed)).relu()
    return {"activations": values.requires_grad_()}


def signals_of(roles):
    role = torch.tensor(roles, dtype=torch.int8)
    return Signals(
        positive=role == P,
        role=role,
        scores=torch.full(role.shape, float("nan")),
        members=torch.empty(0, *role.shape),
        pairs=torch.empty((0, 3), dtype=torch.int64),
        log_odds=torch.empty(0),
    )


def oracle_flops(rows):
    """Plain loops over floats."""
    if not rows:
        return 0.0
    return sum((sum(row[term] for row in rows) / len(rows)) ** 2 for term in range(len(rows[0])))
