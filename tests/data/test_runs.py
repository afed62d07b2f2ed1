import re
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from retrieval_kd.contracts import Hits, UserError
from retrieval_kd.data.runs import Run


class Passages:
    path = Path()

    def __len__(self):
        return 5

    def ids(self, rows):
        return [f"d{row}" for row in rows]


def lists(run):
    return [(query, ids.tolist(), scores.tolist()) for query, ids, scores in run]


def test_hits_become_lists_without_empty_places():
    hits = Hits(
        np.array([[3, 1, -1], [-1, -1, -1], [1, 0, 2]]), np.array([[2, 1, -9], [0, 0, 0], [5, 5, 7]], np.float32)
    )
    run = Run.from_hits(["a", "b", "c"], hits, Passages())
    assert lists(run) == [
        ("a", ["d3", "d1"], [2.0, 1.0]),
        ("b", [], []),
        ("c", ["d2", "d1", "d0"], [7.0, 5.0, 5.0]),
    ]
    assert lists(run.depth(1)) == [("a", ["d3"], [2.0]), ("b", [], []), ("c", ["d2"], [7.0])]
    assert run["c"][0].tolist() == ["d2", "d1", "d0"]
    assert "b" in run
    assert "d2" not in run


def test_order_is_that_of_trec_eval():
    """trec_eval keeps scores as float32 and orders equal ones by the bytes of the id, descending."""
    scores = {
        "a": 1.0,
        "10": 1.0,
        "9": 1.0,
        "é": 1.0,
        "z": 1.0 + 1e-9,
        "\U0001d4b3": 1.0,  # beyond the first plane: UTF-16 would order it differently
        "ﬁ": 1.0,
        "top": 2.0,
        "last": -0.0,
        "lasu": 0.0,
    }
    ids = Run.from_dict({"q": scores})["q"][0].tolist()
    ranks = {}
    for passage in scores:
        result = pytrec_eval.RelevanceEvaluator({"q": {passage: 1}}, {"recip_rank"}).evaluate({"q": scores})
        ranks[passage] = round(1 / result["q"]["recip_rank"])
    assert ids == sorted(scores, key=ranks.__getitem__)


def test_order_against_sorting_in_python():
    generator = np.random.default_rng(0)
    scores = {f"q{q}": {f"d{d}": float(generator.integers(0, 40)) for d in range(60)} for q in range(20)}
    for query, ids, values in Run.from_dict(scores):
        expected = sorted(scores[query].items(), key=lambda item: (item[1], item[0]), reverse=True)
        assert list(zip(ids, values.tolist(), strict=True)) == expected


def test_nan_is_refused_by_query():
    with pytest.raises(UserError, match="query b: 1 scores"):
        Run.from_dict({"a": {"x": 1.0}, "b": {"x": float("nan")}})


def test_identical_ids():
    run = Run.from_dict({"a": {"a": 3.0, "b": 2.0}, "b": {"a": 1.0}})
    assert run.without_identical_ids().as_dict() == {"a": {"b": 2.0}, "b": {"a": 1.0}}


def test_file_reads_back_exactly(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
    bits = bits[np.isfinite(bits)]
    scores = [*bits.tolist(), float(np.finfo(np.float32).max), 1e-45, 0.1, 1 / 3, -np.inf, np.inf]
    run = Run.from_dict({"q%s": {f"d{i}é": score for i, score in enumerate(scores)}, "p": {"x": 0.5, "y": 0.5}})
    run.write(tmp_path / "run.trec", "100%s")
    back = Run.read(tmp_path / "run.trec")
    assert lists(back) == lists(run)
    assert back.scores.dtype == np.float32
    assert (tmp_path / "run.trec").read_text().splitlines()[-2:] == ["p Q0 y 1 0.5 100%s", "p Q0 x 2 0.5 100%s"]


@pytest.mark.parametrize("blank", ["\t", "  ", " \t"])
def test_lines_in_any_order_and_blanks_of_any_kind(tmp_path, blank):
    lines = ["b Q0 x 1 1 t", "a Q0 y 2 2e0 t", "b Q0 z 1 3 t", "a Q0 x 1 2 t"]
    (tmp_path / "run").write_text("\n\n".join(lines).replace(" ", blank) + "\r\n")
    assert lists(Run.read(tmp_path / "run")) == [("b", ["z", "x"], [3.0, 1.0]), ("a", ["y", "x"], [2.0, 2.0])]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("q Q0 d 1 0.5", "5 columns"),
        ("q  Q0 d 1 0.5", "5 columns"),
        ("q Q0 d 1 0.5 tag more", "7 columns"),
        ("q Q0 d e 1 0.5 tag", "7 columns"),
        ("q Q0 d 1 high tag", "1 high"),
        ("q Q0 d first 0.5 tag", "first 0.5"),
        ("q Q0 d 1 nan tag", "NaN"),
        ("q Q0 x 9 0.5 tag", "passage x was ranked for query q in line 1 already"),
        ("q Q0 d\udcff 1 0.5 tag", "not UTF-8"),
    ],
)
def test_faults_name_file_and_line(tmp_path, line, complaint):
    path = tmp_path / "run"
    path.write_bytes(f"q Q0 x 1 2 t\n\nr Q0 x 1 2 t\n{line}\nr Q0 y 1 2 t\n".encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=re.escape(f"{path}:4: ")) as error:
        Run.read(path)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_and_no_lines(tmp_path):
    with pytest.raises(UserError, match="no such run file"):
        Run.read(tmp_path / "run")
    (tmp_path / "run").write_text("\n")
    with pytest.raises(UserError, match="empty"):
        Run.read(tmp_path / "run")


@pytest.mark.parametrize(
    ("query", "passage", "tag"), [("q 1", "d", "t"), ("q", "", "t"), ("q", "d\te", "t"), ("q", "d", "")]
)
def test_what_a_file_cannot_hold_is_not_written(tmp_path, query, passage, tag):
    with pytest.raises(UserError, match="blanks"):
        Run.from_dict({"a": {"x": 1.0}, query: {passage: 1.0}}).write(tmp_path / "run", tag)
    assert not list(tmp_path.iterdir())
