import numpy as np
import pytest

from retrieval_kd.contracts import Role
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.labels import Thresholds

SETTINGS = {"judged": "keep", "member": None, "kind": "probability", "positive": 0.9, "negative": 0.1, "positives": 1}
LOGIT = {"teacher": "logit"}
# query, passage, role, logit; probabilities above .9 are logits above 2.2, below .1 they are below -2.2
ROWS = [
    ("judged", "p0", Role.POSITIVE, -5.0),
    ("judged", "p1", Role.HARD, 4.0),
    ("judged", "p2", Role.HARD, 0.0),
    ("judged", "p3", Role.HARD, -4.0),
    ("found", "p4", Role.HARD, 3.0),
    ("found", "p5", Role.HARD, 5.0),
    ("found", "p6", Role.RANDOM, -3.0),
    ("found", "p7", Role.DARK_MASKED, 9.0),
    ("found", "p8", Role.HARD, np.nan),
    ("lost", "p1", Role.HARD, 2.0),
    ("lost", "p3", Role.HARD, -3.0),
    ("alone", "p5", Role.HARD, 2.5),
    ("alone", "p2", Role.HARD, 1.0),
]
MADE_OF = {"p7": "p5"}


def make_candidates():
    lists: dict[str, list[Candidate]] = {}
    for rank, (query, passage, role, _) in enumerate(ROWS, 1):
        lists.setdefault(query, []).append(Candidate(passage, role, rank, "bm25", 2, int(role == Role.POSITIVE)))
    return Candidates.from_lists(lists.items())


def make(members=LOGIT, **changes):
    return Thresholds(members=members, **SETTINGS | changes)


def labelled(labels, scores=None, made_of=MADE_OF):
    members = np.array([[row[3] for row in ROWS]] if scores is None else scores, np.float32)
    found, rows, statistics = labels.label(make_candidates(), members, made_of)
    pairs = zip(found.row_query_ids(), found.passage_ids, found.role.tolist(), strict=True)
    assert [ROWS[row][:2] for row in rows] == list(zip(found.row_query_ids(), found.passage_ids, strict=True))
    assert found.rank.tolist() == (rows + 1).tolist()  # ranks, sources and rounds stay with their rows
    return [(query, passage, Role(role)) for query, passage, role in pairs], statistics


def test_what_scores_high_is_a_positive_and_what_scores_low_a_negative():
    found, _ = labelled(make())
    assert found == [
        ("judged", "p0", Role.POSITIVE),
        ("judged", "p3", Role.HARD),
        ("found", "p5", Role.PSEUDO_POSITIVE),
        ("found", "p6", Role.RANDOM),
        ("found", "p7", Role.DARK_MASKED),
        ("alone", "p5", Role.PSEUDO_POSITIVE),
    ]


def test_statistics_tell_where_every_candidate_went():
    _, told = labelled(make())
    assert (told.queries, told.judged, told.pseudo_labelled, told.without_positive) == (4, 1, 2, 1)
    assert told.without_negatives == 1  # alone
    assert (told.positives, told.pseudo_positives, told.negatives, told.made) == (1, 2, 2, 1)
    assert (told.above, told.uncertain, told.unscored, told.of_dropped_queries) == (2, 2, 1, 2)
    kept = told.positives + told.pseudo_positives + told.negatives + told.made + told.made_of_others
    assert kept + told.above + told.uncertain + told.unscored + told.of_dropped_queries == len(ROWS)
    assert len(told.lines()) == 2


def test_judgements_can_be_ignored():
    """The judged passage scores low: it is a negative like any other, and the best one takes its place."""
    found, told = labelled(make(judged="ignore"))
    assert found[:3] == [
        ("judged", "p0", Role.HARD),
        ("judged", "p1", Role.PSEUDO_POSITIVE),
        ("judged", "p3", Role.HARD),
    ]
    assert (told.judged, told.pseudo_labelled) == (0, 3)


def test_what_only_judgements_know_of_is_dropped_when_they_are_ignored():
    """A positive that no run found stands in the list because it was judged; rank 0 says so."""
    lists = [("q", [Candidate("p0", Role.POSITIVE, 0, "judged", 0, 1), Candidate("p1", Role.HARD, 1, "bm25", 0, 0)])]
    scores = np.array([[5.0, 4.0]], np.float32)
    found, _, told = make(judged="ignore").label(Candidates.from_lists(lists), scores)
    assert (found.passage_ids, found.role.tolist(), told.unfound) == (["p1"], [Role.PSEUDO_POSITIVE], 1)
    found, _, told = make().label(Candidates.from_lists(lists), scores)
    assert (found.passage_ids, found.role.tolist(), told.unfound) == (["p0"], [Role.POSITIVE], 0)


def test_several_pseudo_positives_are_the_best():
    found, told = labelled(make(positives=2))
    assert [row for row in found if row[0] == "found"][:2] == [
        ("found", "p4", Role.PSEUDO_POSITIVE),
        ("found", "p5", Role.PSEUDO_POSITIVE),
    ]
    assert told.above == 1


def test_a_dark_passage_is_never_a_pseudo_positive():
    """It scores highest of all."""
    for labels in (make(), make(judged="ignore"), make(positives=9)):
        found, _ = labelled(labels)
        assert ("found", "p7", Role.DARK_MASKED) in found


def test_a_dark_passage_goes_with_the_positive_that_it_was_made_of():
    """Else its words would tell what was judged, where judgements are ignored."""
    found, told = labelled(make(), made_of={"p7": "p4"})  # above the threshold, and not the best
    assert "p7" not in {row[1] for row in found}
    assert (told.made, told.made_of_others) == (0, 1)
    found, told = labelled(make(positives=2), made_of={"p7": "p4"})
    assert ("found", "p7", Role.DARK_MASKED) in found
    assert (told.made, told.made_of_others) == (1, 0)


def test_all_members_must_agree_or_one_is_named():
    two = {"one": "logit", "other": "probability"}
    scores = [[row[3] for row in ROWS], [0.5] * len(ROWS)]
    found, told = labelled(make(two), scores)
    assert [row[1] for row in found] == ["p0"]
    assert told.pseudo_labelled == 0
    assert labelled(make(two, member="one"), scores)[0] == labelled(make())[0]


def test_higher_thresholds_never_label_more():
    before = None
    for positive in (0.6, 0.9, 0.93, 0.99, 0.999):
        _, told = labelled(make(positive=positive))
        assert before is None or told.pseudo_positives <= before
        before = told.pseudo_positives
    assert before == 0


def test_nothing_to_label():
    found, told = labelled(make(judged="ignore", positive=0.9999))
    assert found == []
    assert told.without_positive == 4


@pytest.mark.parametrize(
    ("members", "changes", "words"),
    [
        (LOGIT, {"positive": 0.1, "negative": 0.9}, "labels.negative=0.9 is not below labels.positive=0.1"),
        (LOGIT, {"positive": 5}, "labels.positive=5: a threshold of probabilities lies between 0 and 1"),
        (LOGIT, {"judged": "drop"}, "labels.judged is keep or ignore"),
        (LOGIT, {"kind": "points"}, "labels.kind is logit"),
        (LOGIT, {"positives": 0}, "labels.positives must be at least 1"),
        (LOGIT, {"member": "other"}, "labels.member=other: the teacher has teacher"),
        ({"bm25": "similarity"}, {}, "labels.kind=probability, and the teacher's member bm25 gives similarity"),
        ({"a": "similarity", "b": "similarity"}, {"kind": "similarity"}, "labels.member=b would fit"),
        ({"a": None}, {}, "does not say their score_kind"),
        (LOGIT, {"kind": "combined", "member": "teacher"}, "labels.member=teacher: combined scores are of all"),
    ],
)
def test_settings_that_it_refuses(members, changes, words):
    with pytest.raises(ValueError, match=r"labels") as caught:
        make(members, **changes)
    assert words in str(caught.value)


def test_thresholds_can_be_of_the_teachers_own_scores():
    """A list's worst and best are 0 and 1; what only judgements know of takes no part where they are ignored."""
    seen = []

    def combine(candidates, members):
        seen.append((candidates.query_ids, members.shape))
        lists = np.split(members.mean(0), candidates.offsets[1:-1])
        return np.concatenate([(one - one.min()) / max(1e-9, one.max() - one.min()) for one in lists])

    rows = [
        ("p0", Role.POSITIVE, 0, 9.0),
        ("p1", Role.HARD, 1, 4.0),
        ("p2", Role.HARD, 2, 3.0),
        ("p3", Role.HARD, 3, 1),
    ]
    lists = [("q", [Candidate(name, role, rank, "", 0, 0) for name, role, rank, _ in rows])]
    lists.append(("none", [Candidate("p0", Role.POSITIVE, 0, "", 0, 1)]))
    candidates, members = Candidates.from_lists(lists), np.array([[*(row[3] for row in rows), 5.0]] * 2, np.float32)
    labels = make({"bm25": "similarity", "minilm": "similarity"}, kind="combined", judged="ignore")
    found, kept, told = labels.label(candidates, members, None, combine)
    assert seen == [(["q"], (2, 3))]
    assert list(zip(found.passage_ids, found.role.tolist(), strict=True)) == [
        ("p1", Role.PSEUDO_POSITIVE),
        ("p3", Role.HARD),
    ]
    assert kept.tolist() == [1, 3]
    assert (told.unfound, told.uncertain, told.without_positive) == (1, 1, 1)
    kept_judged, *_ = make({"bm25": None}, kind="combined").label(candidates, members, None, combine)
    assert (kept_judged.passage_ids, kept_judged.query_ids) == (["p0", "p3", "p0"], ["q", "none"])
