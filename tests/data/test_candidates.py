import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval_kd.contracts import Role, UserError
from retrieval_kd.data.candidates import COLUMNS, Candidate, Candidates

FIELDS = ("query_ids", "offsets", "passage_ids", "role", "rank", "source", "round", "relevance")
LISTS = [
    ("q2", [Candidate("p1", Role.POSITIVE, 0, "judgements", 0, 2), Candidate("p9", Role.HARD, 4, "bm25", 0, 0)]),
    ("q1", [Candidate("p1", Role.HARD, 1, "bm25", 1, 0)]),
    ("q3", [Candidate("dark:0a", Role.DARK_MASKED, 0, "mask", 2, 0), Candidate("p2", Role.RANDOM, 0, "random", 2, -1)]),
]


@pytest.fixture
def candidates():
    return Candidates.from_lists(LISTS)


def flat(candidates):
    return [(one.query_id, one.candidates()) for one in candidates.lists()]


def frame(**changes):
    columns = {
        "query_id": ["a", "b", "a"],
        "passage_id": ["x", "y", "z"],
        "role": ["hard", "positive", "random"],
        "rank": [1, 2, 3],
        "source": ["s", "s", "t"],
        "round": [0, 0, 1],
        "relevance": [0, 1, 0],
    }
    columns.update(changes)
    return pa.table({name: column for name, column in columns.items() if column is not None})


def test_written_is_read(candidates, tmp_path):
    candidates.write(tmp_path / "c.parquet")
    again = Candidates.read(tmp_path / "c.parquet")
    assert flat(again) == flat(candidates) == LISTS
    for name in FIELDS:
        assert np.asarray(getattr(again, name)).dtype == np.asarray(getattr(candidates, name)).dtype
    assert len(again) == 5


def test_the_file_is_what_others_read(candidates, tmp_path):
    candidates.write(tmp_path / "c.parquet")
    rows = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert tuple(rows[0]) == COLUMNS
    assert rows[3] == {
        "query_id": "q3",
        "passage_id": "dark:0a",
        "role": "dark_masked",
        "rank": 0,
        "source": "mask",
        "round": 2,
        "relevance": 0,
    }
    assert [row["query_id"] for row in rows] == ["q2", "q2", "q1", "q3", "q3"] == candidates.row_query_ids()


def test_rows_of_a_query_need_not_stand_together(tmp_path):
    pq.write_table(frame(), tmp_path / "c.parquet")
    read = Candidates.read(tmp_path / "c.parquet")
    assert read.query_ids == ["a", "b"]
    assert read.offsets.tolist() == [0, 2, 3]
    assert read.passage_ids == ["x", "z", "y"]
    assert read.role.tolist() == [Role.HARD, Role.RANDOM, Role.POSITIVE]
    assert read.source == ["s", "t", "s"]
    assert read.round.tolist() == [0, 1, 0]


def test_many_row_groups_with_dictionaries_of_their_own(tmp_path):
    table = pa.table(
        {
            "query_id": [f"q{n % 3}" for n in range(90)],
            "passage_id": [f"p{n * 7 % 97}" for n in range(90)],
            "role": ["hard"] * 90,
            "rank": range(90),
            "source": [f"s{n % 4}" for n in range(90)],
            "round": [0] * 90,
            "relevance": [0] * 90,
        }
    )
    pq.write_table(table, tmp_path / "c.parquet", row_group_size=8)
    read = Candidates.read(tmp_path / "c.parquet")
    rows = sorted(table.to_pylist(), key=lambda row: row["query_id"])  # stable: a list keeps the order of its rows
    assert read.passage_ids == [row["passage_id"] for row in rows]
    assert read.source == [row["source"] for row in rows]
    assert read.rank.tolist() == [row["rank"] for row in rows]
    assert read.row_query_ids() == [row["query_id"] for row in rows]


def test_empty_lists_live_in_memory_only(tmp_path):
    candidates = Candidates.from_lists([("a", []), LISTS[1], ("b", [])])
    assert [len(one.passage_ids) for one in candidates.lists()] == [0, 1, 0]
    candidates.write(tmp_path / "c.parquet")
    assert Candidates.read(tmp_path / "c.parquet").query_ids == ["q1"]
    Candidates.from_lists([]).write(tmp_path / "none.parquet")
    assert len(Candidates.read(tmp_path / "none.parquet")) == 0


def test_keep(candidates):
    kept = candidates.keep(np.array([True, False, False, True, True]))
    assert flat(kept) == [("q2", LISTS[0][1][:1]), ("q1", []), LISTS[2]]


def test_count_by_role(candidates):
    assert candidates.count_by_role() == {Role.POSITIVE: 1, Role.HARD: 2, Role.RANDOM: 1, Role.DARK_MASKED: 1}


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column, tmp_path):
    pq.write_table(frame(**{column: None}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=rf"c.parquet: no column {column};"):
        Candidates.read(tmp_path / "c.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"role": ["hard", "soft", "hard"]}, "unknown role 'soft' in column role; roles are positive, hard"),
        ({"role": ["hard", "none", "hard"]}, "unknown role 'none'"),
        ({"passage_id": ["x", None, "z"]}, "column passage_id has 1 empty values"),
        ({"rank": [1.5, 2.0, 3.0]}, "column rank must hold whole numbers, not double"),
        ({"passage_id": ["x", "x", "x"]}, "row 3 repeats passage 'x' for query 'a'"),
    ],
)
def test_bad_files_are_told_in_a_line(changes, message, tmp_path):
    pq.write_table(frame(**changes), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=message) as error:
        Candidates.read(tmp_path / "c.parquet")
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "c.parquet").write_text("query_id\tpassage_id\n")
    for name in ("c.parquet", "absent.parquet"):
        with pytest.raises(UserError, match=f"{name}: not a Parquet file of candidates"):
            Candidates.read(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": np.zeros(4, np.int32)}, "differ in length"),
        ({"offsets": np.array([0, 2, 5])}, "do not split 5 rows into 3 lists"),
        ({"offsets": np.array([0, 4, 3, 5])}, "must not fall"),
        ({"role": np.full(5, Role.NONE, np.int8)}, "role that is none"),
        ({"query_ids": ["a", "b", "a"]}, "two lists"),
    ],
)
def test_columns_must_fit(candidates, changes, message):
    columns = {name: getattr(candidates, name) for name in FIELDS} | changes
    with pytest.raises(ValueError, match=message):
        Candidates(**columns)
