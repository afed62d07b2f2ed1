import pytest
import torch.distributed as dist

from retrieval_kd.contracts import UserError
from retrieval_kd.data.sampler import EpochBatches, ResumableLoader


def epoch_of(batches):
    found = list(batches)
    batches.epoch += 1
    return found


@pytest.fixture
def processes(monkeypatch):
    """Pretend to be one of several processes."""

    def pretend(rank, world):
        monkeypatch.setattr(dist, "is_initialized", lambda: True)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: world)

    return pretend


def test_each_epoch_is_another_permutation():
    batches = EpochBatches(12, 4, seed=0)
    first, second = epoch_of(batches), epoch_of(batches)
    for epoch, found in enumerate((first, second)):
        assert [len(batch) for batch in found] == [4, 4, 4]
        assert sorted(query for batch in found for query, _ in batch) == list(range(12))
        assert {number for batch in found for _, number in batch} == {epoch}
    orders = [[query for batch in found for query, _ in batch] for found in (first, second)]
    assert orders[0] != orders[1]


def test_order_depends_on_the_seed_alone():
    assert list(EpochBatches(12, 4, seed=1)) == list(EpochBatches(12, 4, seed=1))
    assert list(EpochBatches(12, 4, seed=1)) != list(EpochBatches(12, 4, seed=2))


def test_what_does_not_fill_a_batch_waits_for_another_epoch():
    batches = EpochBatches(11, 4, seed=0)
    epochs = [epoch_of(batches) for _ in range(8)]
    assert all(len(epoch) == len(batches) == 2 for epoch in epochs)
    assert {query for epoch in epochs for batch in epoch for query, _ in batch} == set(range(11))


def test_a_batch_is_no_larger_than_the_collection():
    assert [len(batch) for batch in EpochBatches(3, 32, seed=0)] == [3]


@pytest.mark.parametrize("batch_size", [4, 5])
def test_shares_of_two_processes_are_the_batch_of_one(processes, batch_size):
    whole = list(EpochBatches(12, batch_size, seed=0))
    shares = []
    for rank in (0, 1):
        processes(rank, 2)
        shares.append(list(EpochBatches(12, batch_size, seed=0)))
    for batch, one, other in zip(whole, *shares, strict=True):
        assert sorted(one + other) == sorted(batch)
        assert abs(len(one) - len(other)) <= 1


def test_a_batch_smaller_than_the_number_of_processes_is_refused(processes):
    processes(0, 4)
    with pytest.raises(UserError, match=r"trainer\.batch_size"):
        next(iter(EpochBatches(12, 3, seed=0)))


def make_loader(workers=0):
    return ResumableLoader(EpochBatches(12, 3, seed=0), list, workers)


@pytest.mark.parametrize("handed_out", [0, 1, 3, 4, 5, 8])
def test_a_restored_loader_goes_on_behind_what_was_handed_out(handed_out):
    uninterrupted = make_loader()
    expected = [batch for _ in range(3) for batch in uninterrupted]
    stopped = make_loader()
    seen = []
    while len(seen) < handed_out:
        for batch in stopped:
            seen.append(batch)
            if len(seen) == handed_out:
                break
    resumed = make_loader()
    resumed.load_state_dict(stopped.state_dict())
    while len(seen) < len(expected):
        seen += list(resumed)
    assert seen == expected


def test_workers_that_read_ahead_do_not_count():
    loader = make_loader(workers=1)
    expected = list(make_loader())
    iterator = iter(loader)
    assert [next(iterator), next(iterator)] == expected[:2]
    assert loader.state_dict() == {"epoch": 0, "start": 2}
    assert list(iterator) == expected[2:]
    assert loader.state_dict() == {"epoch": 1, "start": 0}
