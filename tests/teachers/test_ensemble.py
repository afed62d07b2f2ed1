import numpy as np
import pytest

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.teachers.ensemble import Ensemble
from retrieval_kd.teachers.pointwise import Pointwise

FOUND = np.zeros(4, dtype=bool)


class Nothing:
    kind = ScoreKind.LOGIT
    fingerprint = "nothing"

    def score(self, queries, passages):
        return np.zeros(len(queries), dtype=np.float32)


def ensemble(**arguments):
    return Ensemble(members={"bm25": Nothing(), "minilm": Nothing()}, **arguments)


def test_pointwise_is_the_identity():
    scores = np.array([[3.0, np.nan, -1.0]], dtype=np.float32)
    teacher = Pointwise(Nothing())
    assert list(teacher.members) == ["teacher"]
    np.testing.assert_array_equal(teacher.combine(scores, np.zeros(3, dtype=bool)), scores[0])


def test_mean_of_min_max_by_hand():
    scores = np.array([[0, 10, 5, 2.5], [-1, -1, 1, 0]])
    np.testing.assert_allclose(ensemble().combine(scores, FOUND), [0, 0.5, 0.75, 0.375])


def test_scale_and_shift_of_a_member_do_not_matter_but_its_order_does():
    scores = np.random.default_rng(0).normal(size=(2, 4))
    moved = scores * [[100], [0.1]] + [[-7], [3]]
    np.testing.assert_allclose(ensemble().combine(moved, FOUND), ensemble().combine(scores, FOUND), atol=1e-6)
    assert not np.allclose(ensemble().combine(scores * [[-1], [1]], FOUND), ensemble().combine(scores, FOUND))


def test_a_constant_member_leaves_the_order_to_the_others():
    scores = np.array([[3.0, 3.0, 3.0, 3.0], [1.0, 4.0, 2.0, 3.0]])
    np.testing.assert_allclose(ensemble().combine(scores, FOUND), np.array([0, 1, 1 / 3, 2 / 3]) / 2, atol=1e-6)


def test_made_passages_do_not_move_the_scale_of_the_found():
    scores = np.array([[0, 10, 5, 2.5], [-1, -1, 1, 0]])
    longer = np.hstack([scores, [[1000.0], [3.0]]])
    dark = np.array([False, False, False, False, True])
    combined = ensemble().combine(longer, dark)
    np.testing.assert_array_equal(combined[:4], ensemble().combine(scores, FOUND))
    assert combined[4] == pytest.approx((100 + 2) / 2)


def test_an_item_that_one_member_left_unscored_has_no_score_and_spoils_no_other():
    scores = np.array([[0, 10, 5, np.nan], [-1, -1, 1, 0]])
    combined = ensemble().combine(scores, FOUND)
    np.testing.assert_allclose(combined[:3], [0, 0.5, 0.75])
    assert np.isnan(combined[3])


def test_stacked_lists_are_combined_one_by_one():
    generator = np.random.default_rng(1)
    scores, dark = generator.normal(size=(2, 5, 4)), generator.random((5, 4)) < 0.3
    together = ensemble().combine(scores, dark)
    apart = [ensemble().combine(scores[:, i], dark[i]) for i in range(5)]
    np.testing.assert_array_equal(together, apart)


def test_weights_by_name_and_another_normalisation():
    scores = np.array([[1.0, 2.0], [10.0, 30.0]])
    teacher = ensemble(weights={"minilm": 3, "bm25": 1}, normalise="none")
    np.testing.assert_allclose(teacher.combine(scores, np.zeros(2, bool)), [(1 + 30) / 4, (2 + 90) / 4])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"bm25": 1, "minilim": 1}, "teacher.weights.minilim: .*did you mean 'minilm'"),
        ({"bm25": 1}, "no weight for minilm"),
        ({"bm25": -1, "minilm": 2}, "numbers >= 0"),
        ({"bm25": 0, "minilm": 0}, "not all 0"),
    ],
)
def test_wrong_weights_are_refused_by_name(weights, message):
    with pytest.raises(UserError, match=message):
        ensemble(weights=weights)


def test_no_members_are_refused():
    with pytest.raises(UserError, match="at least one member"):
        Ensemble({})


def test_mean_of_z_scores_by_hand():
    scores = np.array([[0.0, 2.0, 1.0], [6.0, 2.0, 4.0]])
    scores = np.hstack([scores, [[4.0], [0.0]]])  # made: mapped alike
    dark = np.array([False, False, False, True])
    one = np.sqrt(1.5)
    expected = [(-one + one) / 2, (one - one) / 2, 0, (3 * one - 2 * one) / 2]
    np.testing.assert_allclose(ensemble(normalise="z_score").combine(scores, dark), expected, atol=1e-6)


def test_scale_multiplies_the_mean():
    scores = np.random.default_rng(3).normal(size=(2, 4))
    combined = ensemble(scale=30.0).combine(scores, FOUND)
    np.testing.assert_allclose(combined, 30 * ensemble().combine(scores, FOUND), rtol=1e-6)
    assert combined.dtype == np.float32


def test_a_member_without_any_score_of_a_list_is_left_out_or_refused():
    scores = np.array([[np.nan] * 4, [-1, -1, 1, 0]])
    assert np.isnan(ensemble().combine(scores, FOUND)).all()
    with pytest.raises(UserError, match=r"teacher.members.bm25 has no score for a list of 4 passages; .*=exclude"):
        ensemble(unscored="refuse").combine(scores, FOUND)


def test_only_a_whole_list_of_found_passages_is_refused():
    refusing = ensemble(unscored="refuse")
    partly = np.array([[np.nan, 1, 2, np.nan], [-1, -1, 1, 0]])
    np.testing.assert_array_equal(refusing.combine(partly, FOUND), ensemble().combine(partly, FOUND))
    made = np.array([False, True, True, False])  # all that is scored was made, and sets no scale
    with pytest.raises(UserError, match=r"teacher.members.bm25 has no score for a list of 2 passages"):
        refusing.combine(partly, made)
    assert np.isnan(refusing.combine(partly, np.ones(4, bool))).all()  # nothing was asked
    without = ensemble(unscored="refuse", weights={"bm25": 0, "minilm": 1})
    assert not np.isnan(without.combine(np.array([[np.nan] * 4, [-1, -1, 1, 0]]), FOUND)).any()


def test_refused_among_stacked_lists():
    scores = np.random.default_rng(1).normal(size=(2, 5, 4))
    scores[1, 3] = np.nan
    with pytest.raises(UserError, match=r"teacher.members.minilm has no score for 1 of 5 lists"):
        ensemble(unscored="refuse").combine(scores, np.zeros((5, 4), bool))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalise": "softmax"}, "teacher.normalise is one of min_max, z_score, none, got softmax"),
        ({"scale": 0.0}, "teacher.scale must be a number > 0, got 0"),
        ({"unscored": "zero"}, "teacher.unscored is exclude or refuse, got zero"),
    ],
)
def test_wrong_settings_are_refused_by_key(changes, message):
    with pytest.raises(UserError, match=message):
        ensemble(**changes)
