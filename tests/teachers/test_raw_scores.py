import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.teachers.raw_scores import RawScores

QUERIES = {"q1": "first query", "q2": "second query"}
PAIRS = [("q1", "p1", 3.5), ("q1", "p2", -1.25), ("q2", "p3", 0.5)]


TEXTS = {"p1": "one", "p2": "two", "p3": "three", "copy": "one"}


class Passages:
    def rows(self, ids):
        known = list(TEXTS)
        return np.array([known.index(i) if i in known else -1 for i in ids], dtype=np.int64)

    def texts(self, rows):
        return [list(TEXTS.values())[row] for row in rows]


def write(path, pairs=PAIRS):
    if path.suffix == ".parquet":
        columns = list(zip(*pairs, strict=True))
        parquet.write_table(pa.table(dict(zip(("query_id", "passage_id", "score"), columns, strict=True))), path)
    elif path.suffix == ".trec":
        path.write_text("".join(f"{q} Q0 {p} 1 {s} tag\n" for q, p, s in pairs))
    else:
        path.write_text("query_id\tpassage_id\tscore\n" + "".join(f"{q}\t{p}\t{s}\n" for q, p, s in pairs))
    return path


def open_scores(path, **settings):
    return RawScores(path, QUERIES, Passages(), **settings)


@pytest.mark.parametrize("name", ["s.trec", "s.tsv", "s.parquet"])
def test_every_form_gives_the_listed_scores_by_text_in_any_order(tmp_path, name):
    teacher = open_scores(write(tmp_path / name))
    scores = teacher.score(["second query", "first query", "first query"], ["three", "two", "one"])
    assert scores.dtype == np.float32
    assert scores.tolist() == [0.5, -1.25, 3.5]
    assert teacher.score([], []).shape == (0,)


def test_forms_agree_on_the_fingerprint_and_content_changes_it(tmp_path):
    prints = {open_scores(write(tmp_path / name)).fingerprint for name in ("s.trec", "s.tsv", "s.parquet")}
    assert len(prints) == 1
    changed = write(tmp_path / "other.tsv", [*PAIRS[:2], ("q2", "p3", 0.75)])
    logits = open_scores(tmp_path / "s.tsv", kind=ScoreKind.LOGIT)
    assert len({*prints, open_scores(changed).fingerprint, logits.fingerprint}) == 3


def test_unlisted_pairs_are_refused_with_their_number_or_left_unscored(tmp_path):
    path = write(tmp_path / "s.trec")
    queries, passages = ["second query", "first query", "first query"], ["one", "one", "three"]
    with pytest.raises(UserError, match=r"s\.trec: 2 of 3 pairs .*'second query'"):
        open_scores(path).score(queries, passages)
    scores = open_scores(path, unlisted="unscored").score(queries, passages)
    np.testing.assert_array_equal(scores, [np.nan, 3.5, np.nan])


def test_query_and_passage_are_not_interchangeable(tmp_path):
    with pytest.raises(UserError, match="1 of 1 pairs"):
        open_scores(write(tmp_path / "s.trec")).score(["one"], ["first query"])


def test_lines_about_other_collections_are_left_out(tmp_path):
    path = write(tmp_path / "s.tsv", [*PAIRS, ("q9", "p1", 8.0), ("q1", "p9", 9.0)])
    assert open_scores(path).fingerprint == open_scores(write(tmp_path / "own.tsv")).fingerprint
    with pytest.raises(UserError, match="none of its 1 lines"):
        open_scores(write(tmp_path / "foreign.tsv", [("q9", "p1", 8.0)]))


def test_of_equal_texts_the_higher_score_counts(tmp_path):
    for pairs in ([("q1", "p1", 1.0), ("q1", "copy", 2.0)], [("q1", "copy", 2.0), ("q1", "p1", 1.0)]):
        assert open_scores(write(tmp_path / "s.tsv", pairs)).score(["first query"], ["one"]).tolist() == [2.0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("q1\tp1\n", r"s\.tsv:1: 2 columns"),
        ("q1\tp1\t1\nq1\tp2\thigh\n", r"s\.tsv:2: the score 'high' is not a number"),
        ("q1\tp1\t1\nq1\tp2\tnan\n", r"s\.tsv:2: the score nan"),
        ("q1\tp1\t1\nq1\tp1\t2\n", r"s\.tsv:2: passage p1 has a score"),
        ("q1\tp1\t1\nq1\tp1\n", r"s\.tsv:2: 2 columns, not three"),
        ("q1 Q0 p1 1 inf tag\n", r"s\.tsv: 1 scores are not finite numbers, the first for query q1"),
    ],
)
def test_faults_name_file_and_line(tmp_path, content, message):
    (tmp_path / "s.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        open_scores(tmp_path / "s.tsv")


def test_parquet_faults_name_the_file(tmp_path):
    path = tmp_path / "s.parquet"
    parquet.write_table(pa.table({"query_id": ["q1"], "docid": ["p1"], "score": [1.0]}), path)
    with pytest.raises(UserError, match=r"s\.parquet: no column passage_id"):
        open_scores(path)
    write(path, [("q1", "p1", 1.0), ("q1", "p2", float("nan"))])
    with pytest.raises(UserError, match=r"s\.parquet: 1 scores are not finite"):
        open_scores(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(UserError, match=r"s\.parquet: "):
        open_scores(path)
    with pytest.raises(UserError, match="no such score file"):
        open_scores(tmp_path / "absent.tsv")
