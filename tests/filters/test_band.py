import logging

import pytest
import torch
from filter_case import LOGIT, LOGITS, SIMILARITIES, make_evidence, make_signals

from retrieval_kd.filters.band import Band

SETTINGS = {"by": "teacher", "member": None, "kind": "probability", "negative": 0.1, "positive": 0.9}
BOTH = {"bm25": "similarity", "cross": "logit"}


def make(members=LOGIT, **changes):
    return Band(members=members, **SETTINGS | changes)


def kept(keep, *members, similarities=None):
    return keep(make_evidence(similarities), make_signals(*members)).nonzero().tolist()


def test_only_what_lies_below_is_a_negative():
    """Probabilities of 0.1 and 0.9 are logits of -2.2 and 2.2; what has no score is kept."""
    assert kept(make(), LOGITS) == [[0, 3], [0, 4], [1, 1]]
    assert kept(make(negative=0.2), LOGITS) == [[0, 3], [0, 4], [1, 1], [1, 4]]
    assert kept(make(members={"t": "probability"}), LOGITS.sigmoid()) == [[0, 3], [0, 4], [1, 1]]


def test_what_lies_above_is_counted_apart():
    keep = make()
    kept(keep, LOGITS)
    assert keep.figures["filter_share"].item() == pytest.approx(5 / 6)  # all own negatives but -4.0
    assert keep.figures["filter_above_band"].item() == pytest.approx(1 / 6)  # 3.0
    assert keep.figures["filter_emptied"].item() == 1


def test_every_member_must_place_a_negative_below():
    both = {"one": "logit", "other": "log_odds"}
    other = torch.full_like(LOGITS, -5.0)
    assert kept(make(both), LOGITS, other) == kept(make(), LOGITS)
    other[0, 3] = 0.0
    assert kept(make(both), LOGITS, other) == [[0, 4], [1, 1]]
    assert kept(make(both, member="other"), LOGITS, other) == [
        [row, column] for row in range(2) for column in range(5) if (row, column) != (0, 3)
    ]


def test_raw_similarities_and_the_students():
    settings = {"kind": "similarity", "negative": 2.5, "positive": 13.5}
    assert kept(make(BOTH, member="bm25", **settings), SIMILARITIES, LOGITS) == [[0, 3], [0, 4], [1, 0], [1, 1]]
    similarities = torch.tensor([[0.9, 0.1, 0.5, 0.5, 0.2], [0.6, 0.6, 0.6, 0.6, 0.0]])
    student = make(by="student", kind="similarity", negative=0.3, positive=0.8)
    assert kept(student, similarities=similarities) == [[0, 1], [0, 4], [1, 4]]


def test_it_has_no_state_and_warns_once(caplog):
    keep = make()
    assert not keep.state_dict()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            kept(keep, LOGITS)
            keep.step(make_evidence(), make_signals(LOGITS), 0.5)
    assert len(caplog.records) == 1
    assert "filter.negative" in caplog.text


@pytest.mark.parametrize(
    ("members", "changes", "words"),
    [
        (LOGIT, {"negative": 0.9, "positive": 0.1}, "filter.negative=0.9 is not below filter.positive=0.1"),
        (LOGIT, {"negative": 0.5, "positive": 0.5}, "is not below"),
        (LOGIT, {"negative": -2.0}, "filter.negative=-2: a threshold of probabilities lies between 0 and 1"),
        (LOGIT, {"positive": 1.0}, "filter.positive=1: a threshold of probabilities lies between 0 and 1"),
        (BOTH, {}, "filter.negative=0.1 is a threshold of filter.kind=probability, and the teacher's member bm25"),
        (LOGIT, {"by": "student"}, "the student gives similarity; filter.kind=similarity"),
    ],
)
def test_settings_that_it_refuses(members, changes, words):
    with pytest.raises(ValueError, match=r"filter\.") as caught:
        make(members, **changes)
    assert words in str(caught.value)
