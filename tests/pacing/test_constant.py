import pytest
import torch

from retrieval_kd.contracts import Signals
from retrieval_kd.pacing.none import Constant


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_every_query_counts_the_same(progress):
    shape = (4, 2)
    signals = Signals(
        positive=torch.zeros(shape, dtype=torch.bool),
        role=torch.zeros(shape, dtype=torch.int8),
        scores=torch.randn(shape),
        members=torch.empty(0, *shape),
        pairs=torch.empty((0, 3), dtype=torch.int64),
        log_odds=torch.empty(0),
    )
    weight = Constant()(signals, progress)
    assert weight.dtype == torch.float32
    assert weight.tolist() == [1.0] * 4
