import torch

from retrieval_kd.contracts import Evidence, Signals
from retrieval_kd.filters.none import KeepAll


def test_keeps_everything_and_has_no_state():
    shape = (2, 3)
    signals = Signals(
        positive=torch.tensor([[True, False, False], [False, True, True]]),
        role=torch.zeros(shape, dtype=torch.int8),
        scores=torch.full(shape, float("nan")),
        members=torch.empty(0, *shape),
        pairs=torch.empty((0, 3), dtype=torch.int64),
        log_odds=torch.empty(0),
    )
    keep, evidence = KeepAll(), Evidence({}, {}, lambda queries, passages: torch.zeros(shape))
    keep.step(evidence, signals, 0.5)
    found = keep(evidence, signals)
    assert found.dtype == torch.bool
    assert found.tolist() == [[True] * 3] * 2
    assert not keep.state_dict()
