import gzip
import json
import os
import pickle

import numpy as np
import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.teachers.score_files import read_scores

SCORES = {"1": {"10": 3.5, "11": -1.25, "12": 0.5}, "2": {"10": 8.0, "13": 7.5}}
TRIPLES = [(3.5, -1.25, 1, 10, 11), (3.5, 0.5, 1, 10, 12), (8.0, 7.5, 2, 10, 13), (3.5, -1.25, 1, 10, 11)]
WAYS = [[1, [10, 3.5], [11, -1.25], [12, 0.5]], [2, [10, 8.0, [[1, -0.1]]], [13, 7.5], 99]]
NUMBERS = {int(query): {int(passage): score for passage, score in scores.items()} for query, scores in SCORES.items()}


def write_triples(path):
    path.write_text("".join("\t".join(map(str, line)) + "\n" for line in TRIPLES))


def write_spaced(path):
    path.write_text("".join(" ".join(map(str, line)) + "\n" for line in TRIPLES))


def write_ways(path):
    path.write_text("".join(json.dumps(line) + "\n" for line in WAYS))


def write_packed_ways(path):
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in WAYS).encode()))


def write_pickle(path):
    path.write_bytes(pickle.dumps(NUMBERS))


def write_packed_pickle(path):
    path.write_bytes(gzip.compress(pickle.dumps(SCORES, protocol=2)))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("triples.tsv", write_triples),
        ("triples.txt", write_spaced),
        ("examples.json", write_ways),
        ("examples.jsonl.gz", write_packed_ways),
        ("scores.pkl", write_pickle),
        ("scores.pkl.gz", write_packed_pickle),
    ],
)
def test_every_form_is_read_by_its_look(tmp_path, name, write):
    write(tmp_path / name)
    assert read_scores(tmp_path / name).as_dict() == SCORES


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_calls_something_is_refused_and_calls_nothing(tmp_path, protocol):
    content = pickle.dumps({1: {10: Harmful(tmp_path / "made")}}, protocol=protocol)
    (tmp_path / "scores.pkl").write_bytes(content)
    with pytest.raises(
        UserError, match=r"scores.pkl: it holds \w+.mkdir, and a pickle that calls anything is not read"
    ):
        read_scores(tmp_path / "scores.pkl")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(NUMBERS)[:-5], "plain values is read"),
        (b"not a pickle", "plain values is read"),
        (pickle.dumps([1, 2]), r"a pickled \{query: \{passage: score\}\} is expected, found list"),
        (pickle.dumps({1: {10: "high"}}), r"query 1: \{passage: score\} of plain, finite numbers is expected"),
        (pickle.dumps({1: [3.0]}), r"query 1: \{passage: score\} of plain, finite numbers"),
        (pickle.dumps({1: {(1, 2): 3.0}}), r"the id \(1, 2\) is neither a number nor a text"),
        (pickle.dumps({1: {10: np.float32(3)}}), r"it holds numpy\S+, and a pickle that calls anything is not read"),
        (b"\x80\x02}]K\x01s.", "unhashable type: 'list'; a pickled"),
        (pickle.dumps({1: {10: 10**400}}), r"query 1: .* finite numbers is expected"),
        (pickle.dumps({1: {10: float("nan")}}), r"query 1: .* finite numbers is expected"),
    ],
)
def test_other_pickles_are_refused_in_a_line(tmp_path, content, message):
    (tmp_path / "scores.pkl").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_scores(tmp_path / "scores.pkl")
    assert "\n" not in str(caught.value)
    assert "scores.pkl" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3.5\t-1\t1\t10\t11\n3.0\t-1\t1\t10\t12\n", "passage 10 has two scores for query 1, 3.5 and 3"),
        ("3.5\t-1\t1\t10\t11\nhigh\t-1\t1\t10\t12\n", "expected five columns: positive_score, negative_score"),
        ("3.5\tnan\t1\t10\t11\n", "1 scores are not finite"),
        ("[1, [10, 3.5], [10, 3.0]]\n", r"s\.tsv:1: passage 10 has another score for query 1 before"),
        ('[1, [10, "x"]]\n', r's\.tsv:1: \[passage, score\] expected, found \[10, "x"\]'),
        ("[1, [10, NaN]]\n", r"s\.tsv:1: \[passage, score\] expected, found \[10, NaN\]"),
        ("[[1], 2]\n", r"s\.tsv:1: \[query, \[passage, score\], …\] expected"),
        ("[1, 2, 3]\n", r"s\.tsv: no scores; lines of"),
        ("[1, [2, 0.5\n", r"s\.tsv:1: not valid JSON"),
    ],
)
def test_faults_are_told(tmp_path, content, message):
    (tmp_path / "s.tsv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_scores(tmp_path / "s.tsv")


@pytest.mark.parametrize("cut", [12, -20])
def test_a_damaged_archive_of_a_pickle_is_told(tmp_path, cut):
    content = bytearray(gzip.compress(pickle.dumps(NUMBERS)))
    content[cut] ^= 0xFF
    (tmp_path / "scores.pkl.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"scores.pkl.gz: .*plain values is read"):
        read_scores(tmp_path / "scores.pkl.gz")


@pytest.mark.parametrize(
    "content",
    [
        "3.5\t-1\t1\t10\t11\n3.49\t-1\t1\t10\t12\n3.51\t-1\t1\t10\t11\n",
        "[1, [10, 3.5], [11, -1]]\n[1, [10, 3.49], [12, -1], [10, 3.51]]\n",
    ],
)
def test_of_scores_of_a_pair_that_nearly_agree_the_first_counts(tmp_path, content, caplog):
    (tmp_path / "s.tsv").write_text(content)
    assert read_scores(tmp_path / "s.tsv").as_dict() == {"1": {"10": 3.5, "11": -1.0, "12": -1.0}}
    assert "s.tsv: 2 scores differ" in caplog.text
