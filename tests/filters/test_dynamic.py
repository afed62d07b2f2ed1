import logging
import math
from itertools import pairwise

import pytest
import torch
from filter_case import LOGIT, LOGITS, NAN, ROLE, SIMILARITIES, make_evidence, make_signals

from retrieval_kd.filters.dynamic import VARIANTS, Dynamic

SETTINGS = {
    "by": "teacher",
    "member": None,
    "kind": "probability",
    "variant": "ema_quantile",
    "start": None,
    "end": None,
    "quantile": 0.5,
    "rate": 0.1,
    "share": 0.95,
    "margin": None,
}
BOTH = {"bm25": "similarity", "cross": "logit"}


def make(members=LOGIT, **changes):
    return Dynamic(members=members, **SETTINGS | changes)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def dropped(keep, *members, role=ROLE, similarities=None):
    kept = keep(make_evidence(similarities), make_signals(*members, role=role))
    assert kept.dtype == torch.bool
    return (~kept).nonzero().tolist()


def stepped(keep, *members, progress=0.5, role=ROLE):
    keep.step(make_evidence(), make_signals(*members, role=role), progress)
    return keep.threshold.tolist()


def test_logits_are_held_against_the_threshold_as_probabilities():
    """Of LOGITS only 3.0 is a probability above 0.95."""
    assert dropped(make(variant="fixed", start=0.95), LOGITS) == [[0, 1]]
    assert dropped(make(variant="fixed", start=0.7), LOGITS) == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert dropped(make(variant="fixed", start=0.9, members={"t": "probability"}), LOGITS.sigmoid()) == [[0, 1]]
    assert dropped(make(variant="fixed", start=2.5, kind="logit"), LOGITS) == [[0, 1]]


def test_a_threshold_of_probabilities_begins_at_nine_tenths():
    assert make().threshold.tolist() == pytest.approx([0.9])
    assert make(variant="fixed").threshold.tolist() == pytest.approx([0.9])


def test_ema_quantile_follows_the_positives():
    """Their probabilities are sigmoid(2) and sigmoid(1); a step goes a tenth of the way to the median."""
    keep, median = make(), (sigmoid(2) + sigmoid(1)) / 2
    expected = 0.9
    for _ in range(3):
        expected = 0.9 * expected + 0.1 * median
        assert stepped(keep, LOGITS) == pytest.approx([expected], rel=1e-6)
    highest = make(quantile=1.0, rate=1.0)
    assert stepped(highest, LOGITS) == pytest.approx([sigmoid(2)])


def test_only_a_step_moves_the_threshold():
    keep = make()
    for _ in range(3):
        dropped(keep, LOGITS)
    assert keep.threshold.tolist() == pytest.approx([0.9])
    assert set(keep.state_dict()) == {"threshold"}


def test_a_batch_without_scored_positives_moves_nothing():
    unscored = LOGITS.clone()
    unscored[0, 0] = unscored[1, 3] = NAN
    assert stepped(make(), unscored) == pytest.approx([0.9])
    assert dropped(make(members={"t": "similarity"}), unscored) == []


def test_linear_goes_from_start_to_end():
    keep = make(variant="linear", start=0.9, end=0.5)
    assert keep.threshold.tolist() == pytest.approx([0.9])
    assert stepped(keep, LOGITS, progress=0.25) == pytest.approx([0.8])
    assert stepped(keep, LOGITS, progress=1.0) == pytest.approx([0.5])


def test_fixed_stays():
    keep = make(variant="fixed", start=0.8)
    assert stepped(keep, LOGITS, progress=1.0) == pytest.approx([0.8])


def test_relative_to_the_own_positive():
    """A share of .9 of sigmoid(2) and of sigmoid(1); 3.0 and 2.0 exceed the first, 1.5 and 1.0 the second."""
    keep = make(variant="relative", share=0.9)
    assert dropped(keep, LOGITS) == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert stepped(keep, LOGITS) == [math.inf]
    expected = 0.9 * (sigmoid(2) + sigmoid(1)) / 2
    assert keep.figures["filter_threshold"].item() == pytest.approx(expected)


def test_relative_to_a_positive_below_zero():
    scores = torch.tensor([[-2.0, -2.1, -2.3, -1.0, NAN]]).repeat(2, 1)
    role = ROLE[:1].repeat(2, 1)
    keep = make(members={"t": "similarity"}, kind="similarity", variant="relative", share=0.9)
    assert dropped(keep, scores, role=role) == [[0, 0], [0, 1], [0, 3], [1, 0], [1, 1], [1, 3]]


def test_a_margin_to_the_own_positive_drops_more():
    """Below sigmoid(2) - 0.3 and sigmoid(1) - 0.3 there are 0.0 (0.5) and -4.0; -1.0 and -2.0."""
    keep = make(variant="fixed", start=0.99, margin=0.3)
    assert dropped(keep, LOGITS) == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert dropped(make(variant="fixed", start=0.99, margin=0.5), LOGITS) == [
        [0, 0],
        [0, 1],
        [0, 2],
        [1, 0],
        [1, 2],
        [1, 3],
    ]


@pytest.mark.parametrize("margin", [None, 0.1])
def test_a_higher_threshold_never_drops_more(margin):
    scores = 3 * torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    found = [
        {tuple(place) for place in dropped(make(variant="fixed", start=start, margin=margin), scores)}
        for start in (0.05, 0.2, 0.5, 0.8, 0.95)
    ]
    assert all(later <= earlier for earlier, later in pairwise(found))
    assert found[0] != found[-1]


def test_similarities_begin_at_the_quantile_of_the_first_batch():
    keep = make(members={"bm25": "similarity"})
    assert keep.threshold.isnan().all()
    assert dropped(keep, SIMILARITIES) == [[0, 0], [0, 2]]  # above (20 + 12) / 2
    assert keep.figures["filter_threshold"].item() == 16
    assert stepped(keep, SIMILARITIES) == [16]
    assert stepped(keep, SIMILARITIES + 10) == pytest.approx([17])


def test_of_several_members_each_has_its_threshold_and_all_must_be_above():
    keep = make(members=BOTH, rate=1.0)
    assert len(keep.threshold) == 2
    stepped(keep, SIMILARITIES, LOGITS)
    assert keep.threshold.tolist() == pytest.approx([16, (sigmoid(2) + sigmoid(1)) / 2])
    assert dropped(keep, SIMILARITIES, LOGITS) == [[0, 0]]  # both of the positive; of no other passage
    assert {"filter_threshold_bm25", "filter_threshold_cross"} < set(keep.figures)
    silent = torch.full_like(LOGITS, NAN)
    assert dropped(keep, SIMILARITIES, silent) == [[0, 0], [0, 2]]  # who says nothing does not hold others back


def test_a_member_can_be_named():
    keep = make(members=BOTH, member="cross", variant="fixed", start=0.95)
    assert dropped(keep, SIMILARITIES, LOGITS) == [[0, 1]]
    assert "filter_threshold" in keep.figures


def test_by_the_students_own_similarities():
    """No teacher is read; passages of other lists have a score too."""
    similarities = torch.tensor([[0.5, 0.6, 0.2, 0.9, 0.8], [0.1, 0.7, 0.3, 0.5, 0.4]], requires_grad=True)
    keep = make(by="student", kind="similarity", variant="fixed", start=0.65)
    assert dropped(keep, similarities=similarities) == [[0, 3], [0, 4], [1, 1]]
    assert not keep.figures["filter_share"].requires_grad


def test_figures_count_the_queries_own_lists():
    keep = make(variant="fixed", start=0.1)
    dropped(keep, LOGITS)
    # Own negatives are 3.0, 0.0, -4.0 and -1.0, 1.5, -2.0; a probability of 0.1 is a logit of -2.2.
    assert keep.figures["filter_share"].item() == pytest.approx(5 / 6)
    assert keep.figures["filter_emptied"].item() == 1


def test_a_query_that_loses_all_is_told_once(caplog):
    keep = make(variant="fixed", start=0.1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            dropped(keep, LOGITS)
            stepped(keep, LOGITS)
    assert len(caplog.records) == 1
    assert "1 queries of a batch lost every negative" in caplog.text
    assert "A higher filter.start would leave more" in caplog.text


def test_a_query_without_negatives_from_the_start_lost_none(caplog):
    role = torch.where(ROLE == 1, -1, ROLE)
    keep = make(variant="fixed", start=0.1)
    dropped(keep, LOGITS, role=role)
    stepped(keep, LOGITS, role=role)
    assert keep.figures["filter_share"].item() == 0
    assert caplog.records == []


def test_dark_passages_do_not_count():
    role = ROLE.clone()
    role[0, 1] = 5
    keep = make(variant="fixed", start=0.9)
    dropped(keep, LOGITS, role=role)
    assert keep.figures["filter_share"].item() == 0


@pytest.mark.parametrize(
    ("members", "changes", "words"),
    [
        (LOGIT, {"variant": "ema"}, "filter.variant is fixed, linear, ema_quantile, relative, got ema"),
        (LOGIT, {"variant": "linear"}, "filter.end"),
        (LOGIT, {"by": "me"}, "filter.by is teacher or student, got me"),
        (LOGIT, {"kind": "points"}, "filter.kind is logit, log_odds, similarity, probability, got points"),
        (LOGIT, {"quantile": 1.5}, "filter.quantile is from 0 to 1"),
        (LOGIT, {"rate": -1}, "filter.rate is from 0 to 1"),
        (LOGIT, {"share": 2}, "filter.share is from 0 to 1"),
        (LOGIT, {"margin": -0.1}, "filter.margin is null or at least 0"),
        (LOGIT, {"start": 5}, "filter.start=5: a threshold of probabilities lies between 0 and 1"),
        (LOGIT, {"variant": "linear", "start": 0.9, "end": 0}, "filter.end=0: a threshold of probabilities"),
        (LOGIT, {"start": 5, "kind": "similarity"}, "the teacher's member teacher gives logit; filter.kind=logit"),
        (BOTH, {"start": 0.9}, "filter.kind=probability, and the teacher's member bm25 gives similarity"),
        (BOTH, {"margin": 0.1}, "filter.margin=0.1 is a threshold of filter.kind=probability"),
        (BOTH, {"member": "minilm"}, "filter.member=minilm: the teacher has bm25, cross"),
        (BOTH, {"by": "student", "member": "bm25"}, "filter.member=bm25: the student has none"),
        (LOGIT, {"by": "student", "start": 0.9}, "the student gives similarity"),
        (
            {"a": "similarity", "b": "similarity"},
            {"kind": "similarity", "start": 0.5},
            "one threshold for the similarities of a, b, whose scales differ; filter.member=b would fit",
        ),
        ({"a": "similarity"}, {"kind": "similarity", "variant": "fixed"}, "filter.variant=fixed needs filter.start"),
        ({"a": None}, {}, "does not say their score_kind"),
    ],
)
def test_settings_that_it_refuses(members, changes, words):
    with pytest.raises(ValueError, match=r"filter") as caught:
        make(members, **changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_variant_runs():
    for variant in VARIANTS:
        keep = make(variant=variant, end=0.5)
        dropped(keep, LOGITS)
        stepped(keep, LOGITS)
        assert keep.threshold.isfinite().all() == (variant != "relative")
