import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval_kd.contracts import Role, UserError
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.pairs import BACKWARD, COLUMNS, FORWARD, Pairs, place

LISTS = {"q1": ["a", "b", "c"], "q2": ["d"], "q3": ["a", "c", "e", "f"]}
ROWS = [
    ("q3", "f", "a", FORWARD, 2.0),
    ("q1", "a", "b", FORWARD, 3.0),
    ("q1", "a", "b", BACKWARD, -1.0),
    ("q3", "f", "a", BACKWARD, 1.0),
    ("q1", "c", "b", FORWARD, 0.5),
    ("q1", "b", "c", BACKWARD, 1.5),  # the pair before, named the other way round
]


@pytest.fixture
def candidates():
    lists = ((query, [Candidate(one, Role.HARD, 1, "bm25", 0, 0) for one in ids]) for query, ids in LISTS.items())
    return Candidates.from_lists(lists)


def pairs_of(rows):
    *ids, log_odds = map(list, zip(*rows, strict=True))
    return Pairs(*ids, np.array(log_odds, np.float32), ["duo"] * len(rows))


def test_a_file_comes_back_as_it_was(tmp_path):
    pairs = pairs_of(ROWS)
    pairs.write(tmp_path / "pairs.parquet")
    assert tuple(pq.read_schema(tmp_path / "pairs.parquet").names) == COLUMNS
    again = Pairs.read(tmp_path / "pairs.parquet")
    for name in ("query_ids", "passage_i", "passage_j", "order", "teacher"):
        assert getattr(again, name) == getattr(pairs, name)
    assert again.log_odds.dtype == np.float32
    np.testing.assert_array_equal(again.log_odds, pairs.log_odds)


def test_each_pair_is_placed_once_with_its_orders_averaged(candidates):
    placed = place(pairs_of(ROWS), candidates, "here")
    found = {
        (candidates.passage_ids[left], candidates.passage_ids[right], float(odds))
        for left, right, odds in zip(placed.left, placed.right, placed.log_odds, strict=True)
    }
    # c over b by .5, and b over c by 1.5: together, b over c by .5.
    assert found == {("a", "f", -1.5), ("a", "b", 1.0), ("b", "c", 0.5)}
    assert placed.offsets.tolist() == [0, 2, 2, 3]
    assert placed.log_odds.dtype == np.float32
    assert len(placed) == 3


def test_no_pairs_are_placed_nowhere(candidates):
    placed = place(pairs_of(ROWS[:1]), candidates, "here")
    assert placed.offsets.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("q1", "a", "e", FORWARD, 1.0), "here: query 'q1' has a pair with passage 'e', which is not in its list"),
        (("q9", "a", "b", FORWARD, 1.0), "here: query 'q9' of a pair has no list"),
    ],
)
def test_an_id_outside_its_list_is_named(candidates, row, message):
    with pytest.raises(UserError, match=message):
        place(pairs_of([*ROWS, row]), candidates, "here")


def table(**changes):
    columns = dict(zip(COLUMNS, map(list, zip(*[(*row, "duo") for row in ROWS], strict=True)), strict=True)) | changes
    return {name: values for name, values in columns.items() if values is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passage_j": None}, "no column passage_j"),
        ({"order": ["ij"] * 5 + ["both"]}, "unknown order 'both'"),
        ({"passage_j": ["a"] * 6}, "row 2 pairs passage 'a' with itself"),
        ({"log_odds": [1.0, np.nan, *[0.0] * 4]}, "row 2 of column log_odds is nan"),
        ({"log_odds": None}, "a column log_odds .* or else probability"),
        ({"log_odds": None, "probability": [0.1, 0.5, 1.2, 0, 0, 0]}, "probability: entry 3 is 1.2"),
        ({"log_odds": None, "probability": [0.1, -0.5, 0, 0, 0, 0]}, "probability: entry 2 is -0.5"),
        ({"query_id": [None, *["q1"] * 5]}, "column query_id has 1 empty values"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, changes, message):
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table(table(**changes)), path)
    with pytest.raises(UserError, match=message) as caught:
        Pairs.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "pairs.parquet").write_text("query i j")
    with pytest.raises(UserError, match="not a Parquet file of pairs"):
        Pairs.read(tmp_path / "pairs.parquet")


def test_probabilities_of_somebody_else_are_taken(tmp_path):
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table(table(log_odds=None, order=None, teacher=None, probability=[0.9] * 6)), path)
    pairs = Pairs.read(path)
    np.testing.assert_allclose(pairs.log_odds, np.log(9), rtol=1e-5)
    assert set(pairs.order) == {FORWARD}
