import math

import numpy as np
import pytest

from retrieval_kd.callbacks.pair_report import JudgedPairs, count_triangles, pair_report

NAN = float("nan")
# query, i, j, i first, j first (log-odds of i over j), scores, grades
ROWS = [
    (0, 1, 2, 2.0, 1.0, 3.0, 1.0, 1, 0),  # consistent, agrees with the scores, right
    (0, 2, 3, 1.0, -3.0, 1.0, 2.0, 0, 0),  # not consistent; j by both: as the scores have it; not judged
    (0, 1, 3, -1.0, NAN, 3.0, 2.0, 1, 0),  # read once; against the scores, and wrong
    (1, 7, 8, 4.0, 0.0, 0.5, 0.7, 0, 2),  # i by both; against the scores; wrong
    (1, 8, 9, 1.0, 2.0, 0.7, 0.7, 2, 1),  # right; the scores say nothing
]


@pytest.fixture
def report():
    columns = np.array(ROWS).T
    numbers = columns[:3].astype(int)
    return pair_report(JudgedPairs(*numbers, columns[3], columns[4], columns[5:7], columns[7:9]))


def test_figures_are_those_counted_by_hand(report):
    assert (report.pairs, report.queries, report.read_twice) == (5, 2, 4)
    assert report.consistent == pytest.approx(2 / 4)
    assert report.order_bias == pytest.approx((0.5 + 2 + 2 - 0.5) / 4)
    both = [1.5, -1.0, -1.0, 2.0, 1.5]
    assert report.certainty == pytest.approx(sum(1 / (1 + math.exp(-abs(x))) for x in both) / 5)
    assert report.disagreement == pytest.approx(2 / 5)
    assert (report.triangles, report.violations) == (1, 0.0)  # 3 over 1 over 2
    assert report.judged_pairs == 4
    assert report.accuracy == pytest.approx(2 / 4)
    assert report.base_accuracy == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert (report.only_judge_right, report.only_base_right) == (1, 2)


def test_triangles_that_go_round_are_counted():
    """1 over 2, 2 over 3, 3 over 1 in query 0; in order in query 1; an open one in query 2; ties go nowhere."""
    rows = [(0, 1, 2, 1.0), (0, 2, 3, 0.1), (0, 1, 3, -5.0)]
    rows += [(1, 1, 2, 1.0), (1, 3, 2, -0.1), (1, 1, 3, 5.0)]
    rows += [(2, 1, 2, 1.0), (2, 2, 3, 1.0)]
    rows += [(3, 1, 2, 1.0), (3, 2, 3, 0.0), (3, 1, 3, -1.0)]
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    assert count_triangles(*columns) == (3, 1)
    mixed = np.random.default_rng(0).permutation(len(rows))
    assert count_triangles(*(column[mixed] for column in columns)) == (3, 1)


def test_four_passages_have_four_triangles():
    rows = [(0, i, j, 1.0) for i in range(4) for j in range(i + 1, 4)]
    assert count_triangles(*(np.array(column) for column in zip(*rows, strict=True))) == (4, 0)


def test_lines_say_it_and_warnings_warn(report):
    text = "\n".join(report.lines())
    for words in ("5 pairs of 2 queries", "orders 40.0% the other way", "50.0% consistent", "+1.00", "1 triangles"):
        assert words in text
    assert "right in 50.0% of 4 judged pairs" in text
    contradicts, no_better = report.warnings()
    assert "contradicts itself in 50%" in contradicts
    assert "50.0% against 87.5%" in no_better


def test_no_pairs_are_no_failure():
    empty = np.empty(0)
    report = pair_report(
        JudgedPairs(*(np.empty(0, int) for _ in range(3)), empty, empty, np.empty((2, 0)), np.empty((2, 0)))
    )
    assert report.pairs == report.triangles == 0
    assert math.isnan(report.accuracy)
    assert len(report.lines()) == 1
    assert report.warnings() == []


def test_scores_turned_into_pairs_are_not_called_worse_than_themselves():
    scores = np.array([[1.0, 2.0], [2.0, 1.0]])
    grades = np.array([[1, 1], [0, 0]])
    query, left, right = np.array([0, 0]), np.array([1, 1]), np.array([2, 3])
    log_odds = scores[0] - scores[1]
    report = pair_report(JudgedPairs(query, left, right, log_odds, np.full(2, NAN), scores, grades))
    assert report.accuracy == report.base_accuracy == 0.5
    assert report.warnings() == []


def test_what_has_no_score_or_no_grade_is_compared_with_nothing():
    """Pairs 0 and 1 as they are; of 2 the teacher said nothing, of 3 nobody could judge one passage."""
    scores = np.array([[1.0, 1.0, NAN, 2.0], [2.0, 0.0, 1.0, 1.0]])
    grades = np.array([[1.0, 1.0, 1.0, NAN], [0.0, 0.0, 0.0, 0.0]])
    rows = np.arange(4)
    report = pair_report(JudgedPairs(rows, rows, rows + 9, np.ones(4), np.full(4, NAN), scores, grades))
    assert report.judged_pairs == 2
    assert report.accuracy == 1.0
    assert report.base_accuracy == 0.5
    assert (report.only_judge_right, report.only_base_right) == (1, 0)
    assert report.disagreement == pytest.approx(1 / 3)
