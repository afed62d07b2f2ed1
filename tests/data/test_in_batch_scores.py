import numpy as np
import pytest
from training_case import make_training_set
from xxhash import xxh3_64_intdigest

from retrieval_kd.contracts import Role, ScoreKind, Side, UserError
from retrieval_kd.data.in_batch_scores import in_batch_scores, refuse_stored_pairs
from retrieval_kd.data.vector_store import VectorStore
from retrieval_kd.teachers.ensemble import Ensemble

N, P, H, D = Role.NONE, Role.POSITIVE, Role.HARD, Role.DARK_MASKED


class Vectors:
    """A vector that follows from the text and its side."""

    kind = ScoreKind.SIMILARITY
    fingerprint = "vectors"

    def __init__(self):
        self.encoded = 0

    def encode(self, texts, side):
        self.encoded += len(texts)
        rows = [np.random.default_rng(xxh3_64_intdigest(f"{side} {text}".encode())).normal(size=5) for text in texts]
        return np.array(rows, np.float32)


class SharedWords:
    """Scores any text."""

    kind = ScoreKind.SIMILARITY
    fingerprint = "words"
    stored = True
    in_batch = True

    def score(self, queries, passages):
        found = [len(set(q.split()) & set(p.split())) for q, p in zip(queries, passages, strict=True)]
        return np.array(found, np.float32)


class Pairs:
    kind = ScoreKind.LOGIT
    fingerprint = "pairs"
    stored = True

    def score(self, queries, passages):
        return np.zeros(len(queries), np.float32)


class Mean:
    """A teacher that takes the mean, as it is."""

    def __init__(self, **members):
        self.members = members
        self.asked = []

    def combine(self, members, dark):
        self.asked.append(dark.copy())
        return members.mean(0)


@pytest.fixture
def training(tmp_path):
    return make_training_set(tmp_path)


def build(training, teacher, folder, store=None):
    store = store or VectorStore(folder / "store")
    return in_batch_scores(folder / "arrays", teacher, store, training.query_texts, training.rows, training.passages)


def some(training, queries=(3, 0, 11)):
    """Rows and roles of the passages in these queries' lists."""
    lists = [training.list_of(query, 0) for query in queries]
    rows = np.unique(np.concatenate([training.rows[positions] for positions in lists]))
    role = np.full((len(lists), len(rows)), N, np.int8)
    for number, positions in enumerate(lists):
        role[number, np.searchsorted(rows, training.rows[positions])] = training.role[positions]
    return list(queries), rows, role


def oracle(training, member, queries, rows):
    """One text at a time."""
    scores = np.empty((len(queries), len(rows)), np.float32)
    for i, query in enumerate(queries):
        for j, row in enumerate(rows):
            query_text, (text,) = training.query_texts[query], training.passages.texts([row])
            if isinstance(member, Vectors):
                scores[i, j] = member.encode([query_text], Side.QUERY)[0] @ member.encode([text], Side.PASSAGE)[0]
            else:
                scores[i, j] = member.score([query_text], [text])[0]
    return scores


def test_every_query_is_scored_with_every_passage(training, tmp_path):
    teacher = Mean(vectors=Vectors(), words=SharedWords())
    queries, rows, role = some(training)
    scores, members = build(training, teacher, tmp_path)(queries, rows, role)
    assert members.dtype == scores.dtype == np.float32
    expected = np.stack([oracle(training, member, queries, rows) for member in teacher.members.values()])
    np.testing.assert_allclose(members, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores, expected.mean(0), rtol=1e-5, atol=1e-6)
    assert (role == N).any()


def test_the_whole_batch_sets_an_ensemble_s_scale(training, tmp_path):
    teacher = Ensemble({"vectors": Vectors(), "words": SharedWords()}, in_batch=True)
    queries, rows, role = some(training)
    scores, members = build(training, teacher, tmp_path)(queries, rows, role)
    low, high = members.min(2, keepdims=True), members.max(2, keepdims=True)
    np.testing.assert_allclose(scores, ((members - low) / (high - low)).mean(0), atol=1e-6)


def test_made_passages_are_in_their_own_query_s_list_only(training, tmp_path):
    teacher = Mean(vectors=Vectors(), words=SharedWords())
    queries, rows, role = some(training)
    role[:, 2] = N
    role[1, 2] = D
    scores, members = build(training, teacher, tmp_path)(queries, rows, role)
    expected = np.zeros(role.shape, bool)
    expected[[0, 2], 2] = True
    np.testing.assert_array_equal(np.isnan(members), np.stack([expected, expected]))
    np.testing.assert_array_equal(np.isnan(scores), expected)
    dark = np.arange(len(rows)) == 2
    np.testing.assert_array_equal(teacher.asked[0], np.stack([dark] * 3))


def test_what_the_store_has_is_not_encoded_again_and_arrays_are_written_once(training, tmp_path):
    member, store = Vectors(), VectorStore(tmp_path / "store")
    rows = np.unique(training.rows)
    left = [training.query_texts[i % len(training)] for i in range(len(rows))]
    store.score(member, left, training.passages.texts(rows))
    encoded = member.encoded
    batch = some(training)
    first = build(training, Mean(vectors=member), tmp_path, store)(*batch)[0]
    assert member.encoded == encoded > 0
    again = build(training, Mean(vectors=member), tmp_path, VectorStore(tmp_path / "empty"))(*batch)[0]
    assert member.encoded == encoded
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, oracle(training, Vectors(), *batch[:2]), rtol=1e-5, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "arrays").iterdir()) == ["0-passages.npy", "0-queries.npy"]


def test_what_the_store_has_lost_is_encoded(training, tmp_path):
    """Half of it, or all."""
    member, store = Vectors(), VectorStore(tmp_path / "store")
    rows = np.unique(training.rows)[::2]
    store.score(member, [training.query_texts[0]] * len(rows), training.passages.texts(rows))
    member.encoded = 0
    batch = some(training)
    found = build(training, Mean(vectors=member), tmp_path, store)(*batch)[0]
    assert member.encoded == len(np.unique(training.rows)) - len(rows) + len(training) - 1
    np.testing.assert_allclose(found, oracle(training, Vectors(), *batch[:2]), rtol=1e-5, atol=1e-6)


def test_large_collections_are_written_block_by_block(training, tmp_path, monkeypatch):
    batch = some(training)
    whole = build(training, Mean(vectors=Vectors()), tmp_path / "whole")(*batch)[0]
    monkeypatch.setattr("retrieval_kd.data.in_batch_scores.BLOCK", 3)
    blocks = build(training, Mean(vectors=Vectors()), tmp_path / "blocks")(*batch)[0]
    np.testing.assert_array_equal(whole, blocks)


def test_a_passage_that_is_no_candidate_is_an_error(training, tmp_path):
    scores = in_batch_scores(
        tmp_path / "arrays",
        Mean(vectors=Vectors()),
        VectorStore(tmp_path / "store"),
        training.query_texts,
        training.rows[:3],
        training.passages,
    )
    other = np.setdiff1d(training.rows, training.rows[:3])[:1]
    with pytest.raises(ValueError, match=f"row {other[0]} is of no candidate"):
        scores([0], other, np.full((1, 1), N, np.int8))


def test_a_failed_encoding_leaves_no_file(training, tmp_path):
    class Failing(Vectors):
        def encode(self, texts, side):
            if side == Side.PASSAGE:
                raise UserError("no")
            return super().encode(texts, side)

    with pytest.raises(UserError, match="no"):
        build(training, Mean(vectors=Failing()), tmp_path)
    assert [path.name for path in (tmp_path / "arrays").iterdir()] == ["0-queries.npy"]


def test_members_that_score_stored_pairs_are_refused(training, tmp_path):
    refuse_stored_pairs({"vectors": Vectors(), "words": SharedWords()})
    message = "teacher.in_batch=true .* teacher.members.big scores stored pairs only; bi_encoder and bm25 members"
    with pytest.raises(UserError, match=message):
        Ensemble({"vectors": Vectors(), "big": Pairs()}, in_batch=True)
    with pytest.raises(UserError, match=message):
        build(training, Mean(vectors=Vectors(), big=Pairs()), tmp_path)
    assert not Ensemble({"big": Pairs()}).in_batch
