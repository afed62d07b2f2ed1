from collections import Counter

import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.data.mixture import MixedBatches, MixedMaker, apportioned
from retrieval_kd.data.sampler import ResumableLoader

SIZES = [40, 9, 5]  # queries 0 to 39, 40 to 48, 49 to 53
FIRST = [0, 40, 49]


def set_of(batch):
    chosen = {sum(query >= first for first in FIRST) - 1 for query, _ in batch}
    assert len(chosen) == 1
    return chosen.pop()


def test_each_batch_is_of_one_set_and_each_set_is_gone_through_once():
    batches = MixedBatches(SIZES, None, 4, seed=0)
    found = list(batches)
    assert Counter(map(set_of, found)) == {0: 10, 1: 2, 2: 1}
    assert len(batches) == len(found) == 13
    queries = [query for batch in found for query, _ in batch]
    assert len(queries) == len(set(queries)) == 52
    assert {epoch for batch in found for _, epoch in batch} == {0}
    assert list(map(set_of, found)) != sorted(map(set_of, found))


def test_weights_share_out_the_batches():
    """The small set goes through its queries several times, each time in another order and with other draws."""
    found = list(MixedBatches(SIZES, [1.0, 1.0, 2.0], 4, seed=0))
    counts = Counter(map(set_of, found))
    assert sum(counts.values()) == 13
    assert counts[2] in (6, 7)
    small = [batch for batch in found if set_of(batch) == 2]
    assert len({epoch for batch in small for _, epoch in batch}) == len(small)
    assert len({tuple(query for query, _ in batch) for batch in small}) > 1


def test_an_epoch_depends_on_the_seed_and_its_number_alone():
    def epoch(number, seed=0):
        batches = MixedBatches(SIZES, [1, 1, 1], 4, seed)
        batches.epoch = number
        return list(batches)

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(2)
    assert epoch(1) != epoch(1, seed=1)


def test_a_set_smaller_than_a_batch_gives_what_it_has():
    found = list(MixedBatches([20, 3], None, 8, seed=0))
    assert sorted(map(len, found)) == [3, 8, 8]


@pytest.mark.parametrize("handed_out", [0, 3, 13, 20])
def test_a_restored_loader_goes_on_behind_what_was_handed_out(handed_out):
    def make():
        return ResumableLoader(MixedBatches(SIZES, [1, 2, 1], 4, seed=0), list, 0)

    uninterrupted = make()
    expected = [batch for _ in range(2) for batch in uninterrupted]
    stopped, seen = make(), []
    while len(seen) < handed_out:
        for batch in stopped:
            seen.append(batch)
            if len(seen) == handed_out:
                break
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    while len(seen) < len(expected):
        seen += list(resumed)
    assert seen == expected


def test_the_maker_of_a_set_gets_its_own_numbers():
    class Maker:
        def __init__(self, name, size):
            self.name, self.training = name, range(size)

        def __call__(self, items):
            return self.name, items

    maker = MixedMaker([Maker("a", 40), Maker("b", 9), Maker("c", 5)])
    assert maker([(39, 1), (0, 1)]) == ("a", [(39, 1), (0, 1)])
    assert maker([(40, 2), (48, 2)]) == ("b", [(0, 2), (8, 2)])
    assert maker([(49, 0)]) == ("c", [(0, 0)])


@pytest.mark.parametrize(
    ("total", "shares", "counts"),
    [
        (10, [1, 1], [5, 5]),
        (10, [3, 1], [8, 2]),
        (3, [100, 1, 1], [1, 1, 1]),
        (7, [1, 1, 1], [3, 2, 2]),
        (100, [0.5, 0.25, 0.25], [50, 25, 25]),
    ],
)
def test_shares_in_whole_numbers(total, shares, counts):
    assert apportioned(total, shares) == counts


def test_too_few_batches_to_share_are_refused():
    with pytest.raises(UserError, match="do not give each of 3 sets"):
        apportioned(2, [1, 1, 1])
