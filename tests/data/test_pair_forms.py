import json
import math

import numpy as np
import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.data.pairs import Pairs

LIST = [7, [11, 3.5, [[1, math.log(0.9)], [2, math.log(0.2)]]], [12, 2.0], 13, [14, 1.0, [[0, 0.0]]]]


def test_lists_with_preferences(tmp_path):
    path = tmp_path / "pairs.train.jsonl"
    path.write_text(json.dumps(LIST) + "\n" + json.dumps([8, [1, 0.5], [2, 0.1]]) + "\n")
    pairs = Pairs.read(path)
    assert list(zip(pairs.query_ids, pairs.passage_i, pairs.passage_j, strict=True)) == [
        ("7", "11", "12"),
        ("7", "11", "13"),
        ("7", "14", "11"),
    ]
    np.testing.assert_allclose(pairs.log_odds[:2], [math.log(9), math.log(0.25)], rtol=1e-5)
    assert 13 < pairs.log_odds[2] < 14  # certain, kept finite
    assert pairs.order == ["ij"] * 3


def test_lines_of_a_judges_two_scores(tmp_path):
    path = tmp_path / "judged.tsv"
    path.write_text(f"q1 a b {math.log(0.75):.6f} {math.log(0.25):.6f}\nq1\tb\tc\t-1.5\t0.5\n")
    pairs = Pairs.read(path)
    assert (pairs.query_ids, pairs.passage_i, pairs.passage_j) == (["q1", "q1"], ["a", "b"], ["b", "c"])
    np.testing.assert_allclose(pairs.log_odds, [math.log(3), -2.0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", "{}\n", r"p.jsonl:1: \[query, \[passage, score"),
        ("p.jsonl", "[1, [2\n", r"p.jsonl:1: not valid JSON"),
        (
            "p.jsonl",
            "[1, [2, 1.0, [[5, -1.0]]]]\n",
            r"p.jsonl:1: \[place in the line, log probability\] expected, found",
        ),
        ("p.jsonl", "[1, [2, 1.0, [[0, 0.5]]], 3]\n", r"p.jsonl:1: \[place in the line"),
        ("p.jsonl", "[1, [2, 1.0, [[0, -0.5]]], 3]\n", r"p.jsonl: row 1 pairs passage '2' with itself"),
        ("p.jsonl", "[1, [2, 1.0], 3]\n", r"p.jsonl: it holds no pairs"),
        (
            "p.tsv",
            "q a b 0.5\n",
            r"p.tsv:1: expected query, passage i, passage j, score of i, score of j; found 'q a b 0.5'",
        ),
        ("p.tsv", "q a b 0.5 high\n", r"p.tsv:1: expected query"),
        ("p.tsv", "q a b -inf 0\n", r"p.tsv:1: expected query"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Pairs.read(tmp_path / name)
