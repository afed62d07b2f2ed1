"""Judges that read no text, and the teacher that a judge and a score teacher make."""

import numpy as np
import pytest

from retrieval_kd.contracts import ScoreJudge, UserError
from retrieval_kd.data.pairs import FORWARD, Pairs
from retrieval_kd.teachers.pair_file import PairFile
from retrieval_kd.teachers.pairwise import Pairwise
from retrieval_kd.teachers.pointwise import Pointwise
from retrieval_kd.teachers.score_differences import ScoreDifferences


def test_scores_become_preferences():
    judge = ScoreDifferences(2.0, "difference")
    assert isinstance(judge, ScoreJudge)
    found = judge.prefer(np.array([1.0, 0.5], np.float32), np.array([0.25, 0.75], np.float32))
    assert found.dtype == np.float32
    assert found.tolist() == [1.5, -0.5]


def test_probabilities_are_compared_by_their_odds():
    found = ScoreDifferences(1.0, "probability").prefer(np.array([0.9]), np.array([0.5]))
    np.testing.assert_allclose(found, np.log(9), rtol=1e-5)
    with pytest.raises(UserError, match=r"kind=probability: the base's entry 2 is 1\.5, .*kind=difference would fit"):
        ScoreDifferences(1.0, "probability").prefer(np.array([0.9, 1.5]), np.array([0.5, 0.5]))


@pytest.mark.parametrize(("scale", "kind", "key"), [(0, "difference", "scale"), (1.0, "odds", "kind")])
def test_bad_settings_are_refused(scale, kind, key):
    with pytest.raises(UserError, match=rf"teacher\.judge\.{key}"):
        ScoreDifferences(scale, kind)


def test_a_pairwise_teacher_scores_as_its_base():
    class Scorer:
        """Never asked here."""

    base = Pointwise(Scorer())
    teacher = Pairwise(base, ScoreDifferences(1.0, "difference"), "both")
    assert teacher.members is base.members
    assert teacher.both_orders
    assert not Pairwise(base, None, "one").both_orders
    assert teacher.combine(np.array([[1.0, 2.0]]), np.zeros(2, bool)).tolist() == [1.0, 2.0]
    with pytest.raises(UserError, match=r"teacher\.orders is one or both, got two"):
        Pairwise(base, None, "two")


def test_a_file_gives_the_pairs_of_the_queries_at_hand(tmp_path):
    path = tmp_path / "pairs.parquet"
    Pairs(["q1", "q2", "q1"], list("abc"), list("def"), [FORWARD] * 3, np.arange(3, dtype=np.float32), ["x"] * 3).write(
        path
    )
    found = PairFile(path).of({"q1"})
    assert found.passage_i == ["a", "c"]
    assert found.log_odds.tolist() == [0.0, 2.0]
    with pytest.raises(UserError, match="none of its 3 pairs"):
        PairFile(path).of({"q9"})
    with pytest.raises(UserError, match=r"teacher\.judge\.path=.*no such file"):
        PairFile(tmp_path / "gone.parquet")
