from dataclasses import replace

import numpy as np
import pytest
from training_case import QUERIES, make_candidates, make_training_set

from retrieval_kd.contracts import Passage, Role, UserError
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.pairs import PlacedPairs
from retrieval_kd.data.passages import PassageStore, passage_keys
from retrieval_kd.data.training_set import Draw, Signalled, TrainingSet, combine_scores


def test_a_list_is_one_positive_and_the_wished_number_of_others(training_set):
    for query in range(QUERIES):
        for epoch in range(3):
            positions = training_set.list_of(query, epoch)
            roles = training_set.role[positions].tolist()
            assert roles == [Role.POSITIVE] * (query != 12) + [Role.HARD] * (4 + (query == 12))
            assert len(set(positions.tolist())) == len(positions)
            assert ((positions >= training_set.offsets[query]) & (positions < training_set.offsets[query + 1])).all()


def test_lists_are_drawn_anew_each_epoch_and_equal_for_equal_seeds(training_set, tmp_path):
    same, other = make_training_set(tmp_path / "same"), make_training_set(tmp_path / "other", seed=4)
    lists = {(query, epoch): training_set.list_of(query, epoch).tolist() for query in range(8) for epoch in range(4)}
    assert lists == {key: same.list_of(*key).tolist() for key in lists}
    assert lists != {key: other.list_of(*key).tolist() for key in lists}
    for query in range(8):
        assert len({frozenset(lists[query, epoch]) for epoch in range(4)}) > 1
        shown = {position for epoch in range(60) for position in training_set.list_of(query, epoch)}
        assert shown == set(range(training_set.offsets[query], training_set.offsets[query + 1]))


def test_each_of_several_positives_gets_its_turn(training_set):
    first = {int(training_set.list_of(13, epoch)[0]) for epoch in range(40)}
    start = training_set.offsets[13]
    assert first == set(np.flatnonzero(training_set.role[start:] == Role.POSITIVE) + start)


def test_a_short_list_is_shown_whole(tmp_path):
    training_set = make_training_set(tmp_path, per_query=50)
    assert sorted(training_set.list_of(2, 0)) == list(range(training_set.offsets[2], training_set.offsets[3]))


def test_known_positives_are_what_was_judged_relevant(training_set):
    _, judgements = make_candidates()
    for query, query_id in enumerate(training_set.query_ids):
        relevant = [passage_id for passage_id, grade in judgements.get(query_id, {}).items() if grade > 0]
        assert sorted(training_set.known_positives[query]) == sorted(passage_keys(relevant))
    assert len(training_set.known_positives[4]) == 2


@pytest.fixture
def parts(tmp_path):
    store = PassageStore.build(tmp_path / "passages", [Passage("a", "", "red"), Passage("b", "", "blue")])
    signalled = Signalled(np.zeros(1, np.float32), np.zeros((1, 1), np.float32))

    def make(passage_id, judgements=None):
        lists = [("q", [Candidate(passage_id, Role.HARD, 1, "bm25", 0, 0)])] if passage_id else []
        return TrainingSet({"q": "red"}, judgements, Candidates.from_lists(lists), store, signalled, Draw(2, 0))

    return make


def test_judgements_of_passages_that_are_not_there_are_left_out(parts):
    assert parts("a", {"q": {"gone": 1, "b": 1}}).known_positives[0].tolist() == passage_keys(["b"]).tolist()
    assert len(parts("a").known_positives[0]) == 0


def test_what_a_teacher_labelled_is_a_known_positive_too(tmp_path):
    """One of several is drawn; another query's list may bring the others into the batch, not as negatives."""
    names = ["a", "b", "c"]
    store = PassageStore.build(tmp_path / "passages", [Passage(name, "", name) for name in names])
    roles = [Role.PSEUDO_POSITIVE, Role.PSEUDO_POSITIVE, Role.HARD]
    rows = [
        Candidate(name, role, rank, "bm25", 0, 0) for rank, (name, role) in enumerate(zip(names, roles, strict=True))
    ]
    signalled = Signalled(np.zeros(3, np.float32), np.zeros((1, 3), np.float32))
    lists = Candidates.from_lists([("q", rows)])
    known = TrainingSet({"q": "red"}, {"q": {"c": 0}}, lists, store, signalled, Draw(2, 0)).known_positives[0]
    assert sorted(known) == sorted(passage_keys(["a", "b"]))


def test_unknown_candidates_are_refused(parts):
    with pytest.raises(UserError, match="1 unknown passages, first 'gone'"):
        parts("gone")


def test_nothing_to_train_on_is_refused(parts):
    with pytest.raises(UserError, match="no candidate to train on"):
        parts(None)


class Centred:
    """The mean of the members, less the list's mean over what was found: depends on the whole list."""

    def combine(self, members, dark):
        mean = members.mean(0)
        return mean - mean[~dark].mean()


def test_scores_are_combined_over_whole_lists():
    candidates, _ = make_candidates()
    members = np.random.default_rng(0).normal(size=(2, len(candidates))).astype(np.float32)
    dark = np.zeros(len(candidates), bool)
    dark[candidates.offsets[1] - 1] = True
    found = combine_scores(candidates, members, Centred(), dark)
    for query in range(QUERIES):
        rows = range(candidates.offsets[query], candidates.offsets[query + 1])
        kept = [(members[0, row] + members[1, row]) / 2 for row in rows if not dark[row]]
        for row in rows:
            expected = (members[0, row] + members[1, row]) / 2 - sum(kept) / len(kept)
            assert found[row] == pytest.approx(expected, abs=1e-6)


def test_a_list_that_the_teacher_refuses_is_named():
    class Refusing:
        def combine(self, members, dark):
            if np.isnan(members).all():
                raise UserError("a member has no score")
            return members.mean(0)

    candidates, _ = make_candidates()
    members = np.ones((1, len(candidates)), np.float32)
    members[:, slice(*candidates.offsets[3:5])] = np.nan
    with pytest.raises(UserError, match=f"query {candidates.query_ids[3]}: a member has no score"):
        combine_scores(candidates, members, Refusing(), np.zeros(len(candidates), bool))


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    return make_training_set(tmp_path_factory.mktemp("paired"), paired=True)


def test_pairs_are_in_the_list_whole(paired):
    """Lists are as long as without pairs, of one positive, and hold as many pairs as fit; by chance few would."""
    shown, by_chance = 0, 0
    plain = Signalled(paired.signalled.scores, paired.signalled.members)
    for query in range(QUERIES):
        left, right, _ = paired.pairs_of(query)
        for epoch in range(10):
            positions = paired.list_of(query, epoch)
            roles = paired.role[positions].tolist()
            assert len(set(positions.tolist())) == len(positions) == 5
            assert roles == [Role.POSITIVE] * (query != 12) + [Role.HARD] * (4 + (query == 12))
            shown += (np.isin(left, positions) & np.isin(right, positions)).sum()
            paired.signalled, before = plain, paired.signalled
            positions = paired.list_of(query, epoch)
            paired.signalled = before
            by_chance += (np.isin(left, positions) & np.isin(right, positions)).sum()
    assert shown > 1.5 * by_chance
    assert shown / (10 * QUERIES) > 2


def test_every_pair_that_can_be_shown_gets_its_turn(paired):
    for query in (0, 5, 12):
        left, right, _ = paired.pairs_of(query)
        seen = np.zeros(len(left), bool)
        for epoch in range(40):
            positions = paired.list_of(query, epoch)
            seen |= np.isin(left, positions) & np.isin(right, positions)
        assert seen.all()


def test_lists_around_pairs_are_drawn_by_seed_epoch_and_query(paired, tmp_path):
    same, other = (make_training_set(tmp_path / str(seed), seed=seed, paired=True) for seed in (3, 4))
    lists = {(query, epoch): paired.list_of(query, epoch).tolist() for query in range(8) for epoch in range(4)}
    assert lists == {key: same.list_of(*key).tolist() for key in lists}
    assert lists != {key: other.list_of(*key).tolist() for key in lists}
    assert len({frozenset(lists[3, epoch]) for epoch in range(4)}) > 1  # q3 has no pair


@pytest.fixture
def with_made(tmp_path):
    """A positive, six hard and five made passages of one query; another query has no made ones."""
    names = [f"p{place}" for place in range(12)]
    store = PassageStore.build(tmp_path / "passages", (Passage(name, "", name) for name in names))
    roles = [Role.POSITIVE, *[Role.HARD] * 6, *[Role.DARK_MASKED, Role.DARK_REINFORCED] * 2, Role.DARK_MASKED]
    rows = [Candidate(name, role, 0, "", 0, 0) for name, role in zip(names, roles, strict=True)]
    candidates = Candidates.from_lists([("q1", rows), ("q2", rows[:7])])
    scores = np.zeros(len(candidates), np.float32)

    def make(draw):
        return TrainingSet({"q1": "a", "q2": "b"}, None, candidates, store, Signalled(scores, scores[None]), draw)

    return make


def test_made_passages_are_drawn_beside_found_ones(with_made):
    """What is found is the same list with and without them: the control forwards the same found passages."""
    shown = set()
    for epoch in range(40):
        positions = with_made(Draw(4, 3, made=2)).list_of(0, epoch)
        roles = with_made(Draw(4, 3)).role[positions]
        assert (roles == Role.POSITIVE).sum() == 1
        assert (roles == Role.HARD).sum() == 4
        assert (roles > Role.PSEUDO_POSITIVE).sum() == 2
        assert positions[:5].tolist() == with_made(Draw(4, 3)).list_of(0, epoch).tolist()
        shown |= set(positions[5:].tolist())
    assert shown == set(range(7, 12))


def test_around_pairs_made_passages_keep_to_their_number(with_made):
    """Where pairs are judged, lists are filled in another way; none of these passages is in a pair."""
    nothing = PlacedPairs(np.zeros(3, np.int64), *np.zeros((2, 0), np.int64), np.zeros(0, np.float32))
    for made in (0, 2, 9):
        training_set = with_made(Draw(4, 3, made=made))
        training_set.signalled = replace(training_set.signalled, pairs=nothing)
        roles = training_set.role[training_set.list_of(0, 0)]
        assert (roles == Role.POSITIVE).sum() == 1
        assert (roles == Role.HARD).sum() == 4
        assert (roles > Role.PSEUDO_POSITIVE).sum() == min(made, 5)


def test_no_more_made_passages_than_there_are(with_made):
    assert sorted(with_made(Draw(4, 3, made=9)).list_of(0, 0))[-5:] == list(range(7, 12))
    assert len(with_made(Draw(4, 3, made=9)).list_of(1, 0)) == 5
    assert len(with_made(Draw(4, 3)).list_of(0, 0)) == 5
