"""A part that is taken straight out of a source is the part that is taken out of the stored whole."""

import numpy as np
import pytest

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data.collections import open_collection
from retrieval_kd.data.limit import chosen_rows, look_through, lots, only_rows
from retrieval_kd.data.passages import BLOCK


class Many:
    """More than a block of passages; judgements name some that do not exist."""

    name = "many"

    def __init__(self):
        self.read = 0

    def digest(self):
        return "many"

    def splits(self):
        return ["train", "test"]

    def passages(self):
        for row in range(BLOCK + 500):
            self.read += 1
            yield Passage(f"p{row}", f"t{row}", f"text {row}")

    def queries(self, split):
        return {f"{split}{row}": f"what is {row}?" for row in range(20)}

    def judgements(self, split):
        step = 97 if split == "train" else 301  # the last ones lie beyond the passages
        return {f"{split}{row}": {f"p{row * step}": 1, "none": 0} for row in range(20)}


@pytest.mark.parametrize("limit", [{"passages": 200}, {"passages": 5, "queries": 3}, {"queries": 4, "passages": 4500}])
def test_equals_the_part_of_the_stored_whole(tmp_path, limit):
    open_collection(Many(), "test", tmp_path / "whole", unknown="skip")
    for split in ("test", "train"):
        chosen = open_collection(Many(), split, tmp_path / "whole", limit=limit, unknown="skip")
        straight = open_collection(Many(), split, tmp_path / "straight", limit=limit, unknown="skip")
        assert straight.passages.digest == chosen.passages.digest
        assert straight.passages.texts([0]) == chosen.passages.texts([0])
        assert (straight.queries, straight.judgements) == (chosen.queries, chosen.judgements)
        assert straight.digest == chosen.digest


def test_it_is_read_twice_then_never(tmp_path):
    source = Many()
    limit = {"passages": 50, "queries": 2}
    first = open_collection(source, "test", tmp_path, limit=limit, unknown="skip")
    assert source.read <= 2 * (BLOCK + 500)
    source.read = 0
    assert open_collection(source, "train", tmp_path, limit=limit, unknown="skip").passages.path == first.passages.path
    assert source.read == 0


def test_unknown_judgements_are_told_of_a_limited_source_too(tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match=r"many/test: unknown passage 'none'; 24 judgement\(s\) name an unknown"):
            open_collection(Many(), "test", tmp_path, limit={"passages": 50})


def test_first_come_those_that_must_stay():
    drawn = lots([f"p{row}" for row in range(100)])
    rows = chosen_rows(drawn, [7, 3], 10)
    assert {3, 7} <= set(rows.tolist())
    assert rows.tolist() == sorted(rows.tolist())
    others = np.setdiff1d(np.arange(100), [3, 7])
    assert set(rows.tolist()) - {3, 7} == set(others[np.argsort(drawn[others])[:8]].tolist())
    assert chosen_rows(drawn, range(30), 10).tolist() == list(range(30))


def test_lots_rows_and_passages():
    passages = [Passage(f"p{row}", "", "") for row in range(BLOCK + 3)]
    drawn, rows = look_through(iter(passages), {"p1", f"p{BLOCK + 1}", "none"})
    assert rows == {"p1": 1, f"p{BLOCK + 1}": BLOCK + 1}
    assert drawn.tolist() == lots([passage.id for passage in passages]).tolist()
    stream = iter(passages)
    assert list(only_rows(stream, np.array([0, 2, 5]))) == [passages[row] for row in (0, 2, 5)]
    assert next(stream) == passages[6]
