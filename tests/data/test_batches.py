import math

import numpy as np
import pytest
import torch
from training_case import make_candidates, make_pairs, make_training_set
from transformers import AutoTokenizer

from retrieval_kd.contracts import Passage, Role, Side
from retrieval_kd.data.batches import BatchMaker
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.passages import PassageStore, passage_keys
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer
from retrieval_kd.data.training_set import Draw, Signalled, TrainingSet

ITEMS = [(query, 2) for query in (4, 0, 1, 5, 12, 2, 13)]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return TextTokenizer(AutoTokenizer.from_pretrained(tiny), SideSettings("find ", 12), SideSettings("", 24))


@pytest.fixture(scope="module")
def batch(training_set, tokenizer):
    return BatchMaker(training_set, tokenizer)(ITEMS)


def test_passages_are_the_distinct_ones_of_the_lists(batch, training_set):
    shown = [
        training_set.passages.ids([training_set.rows[p]])[0]
        for query, epoch in ITEMS
        for p in training_set.list_of(query, epoch)
    ]
    assert len(shown) > len(set(shown))  # else nothing is shared and the test proves nothing
    assert sorted(batch.passage_ids) == sorted(set(shown))
    assert batch.passage_keys.tolist() == passage_keys(batch.passage_ids).tolist()
    assert batch.query_ids == tuple(f"q{query}" for query, _ in ITEMS)


def test_roles_scores_and_members_stand_where_they_belong(batch, training_set):
    """Everything by a loop over the lists; NaN and NONE elsewhere."""
    shape = (len(ITEMS), len(batch.passage_ids))
    role, scores = np.full(shape, int(Role.NONE)), np.full(shape, np.nan, np.float32)
    members = np.full((2, *shape), np.nan, np.float32)
    for row, (query, epoch) in enumerate(ITEMS):
        for position in training_set.list_of(query, epoch):
            column = batch.passage_ids.index(training_set.passages.ids([training_set.rows[position]])[0])
            role[row, column] = training_set.role[position]
            scores[row, column] = training_set.signalled.scores[position]
            members[:, row, column] = training_set.signalled.members[:, position]
    assert np.array_equal(batch.signals.role.numpy(), role)
    np.testing.assert_array_equal(batch.signals.scores.numpy(), scores)
    np.testing.assert_array_equal(batch.signals.members.numpy(), members)
    assert batch.signals.pairs.shape == (0, 3)
    assert batch.signals.log_odds.shape == (0,)


def test_every_known_positive_is_marked_other_rows_too(batch):
    _, judgements = make_candidates()
    for row, query_id in enumerate(batch.query_ids):
        for column, passage_id in enumerate(batch.passage_ids):
            relevant = judgements.get(query_id, {}).get(passage_id, 0) > 0
            assert batch.signals.positive[row, column].item() == relevant, (query_id, passage_id)
    row, column = batch.query_ids.index("q4"), batch.passage_ids.index("p5")
    assert batch.signals.role[row, column] == Role.NONE  # a positive that only another row's list brought here
    assert batch.signals.positive[row, column]


def test_known_positives_travel_as_keys(batch):
    _, judgements = make_candidates()
    for row, query_id in enumerate(batch.query_ids):
        relevant = [passage_id for passage_id, grade in judgements.get(query_id, {}).items() if grade > 0]
        kept = [key for key in batch.known_positives[row].tolist() if key != -1]
        assert sorted(kept) == sorted(passage_keys(relevant).tolist())


def test_texts_come_back_in_the_order_of_the_ids(batch, training_set, tokenizer):
    for tokens, side, texts in (
        (batch.queries, Side.QUERY, [training_set.query_texts[query] for query, _ in ITEMS]),
        (batch.passages, Side.PASSAGE, training_set.passages.texts(training_set.passages.rows(batch.passage_ids))),
    ):
        expected = tokenizer.ids(texts, side)
        rows = [
            ids[mask.bool()].tolist()
            for group in tokens.groups
            for ids, mask in zip(group.input_ids, group.attention_mask, strict=True)
        ]
        assert [rows[tokens.order.tolist().index(place)] for place in range(len(texts))] == expected


def test_a_batch_follows_from_its_items_alone(batch, training_set, tokenizer):
    again = BatchMaker(training_set, tokenizer)(ITEMS)
    assert again.passage_ids == batch.passage_ids
    assert BatchMaker(training_set, tokenizer)([(query, 3) for query, _ in ITEMS]).passage_ids != batch.passage_ids


def make_set(folder, lengths, roles):
    """One query over passages of these numbers of words."""
    store = PassageStore.build(
        folder / "passages", (Passage(f"p{i}", "", f"fish{' bird' * (n - 1)}") for i, n in enumerate(lengths))
    )
    rows = [Candidate(f"p{i}", role, 1, "made", 0, 0) for i, role in enumerate(roles)]
    lists = Candidates.from_lists([("q", rows)])
    scores = np.arange(len(rows), dtype=np.float32)
    return TrainingSet(
        {"q": "red fish"}, None, lists, store, Signalled(scores, np.empty((0, len(rows)))), Draw(99, 0, 99)
    )


def test_little_is_padding(tmp_path):
    """Passages of 10 to 200 words, as skewed as real ones, padded together would be mostly padding."""
    from transformers import BertTokenizer

    words = BertTokenizer(vocab={word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "bird"])})
    lengths = [10 + int(190 * (i / 64) ** 3) for i in range(64)]
    training_set = make_set(tmp_path, lengths, [Role.HARD] * 64)
    batch = BatchMaker(training_set, TextTokenizer(words, SideSettings("", 256), SideSettings("", 256)))([(0, 0)])
    computed = sum(math.prod(group.input_ids.shape) for group in batch.passages.groups)
    used = sum(int(group.attention_mask.sum()) for group in batch.passages.groups)
    together = 64 * max(group.input_ids.shape[1] for group in batch.passages.groups)
    assert together / used > 2.5
    assert computed / used < 1.3


def test_made_passages_and_pseudo_positives(tmp_path, tokenizer):
    """A pseudo positive counts as positive without a judgement; a dark passage keeps its role and its score."""
    roles = [Role.PSEUDO_POSITIVE, Role.HARD, Role.DARK_MASKED]
    batch = BatchMaker(make_set(tmp_path, [3, 4, 5], roles), tokenizer)([(0, 0)])
    order = [batch.passage_ids.index(f"p{i}") for i in range(3)]
    assert batch.signals.positive[0, order].tolist() == [True, False, False]
    assert batch.signals.role[0, order].tolist() == roles
    assert batch.signals.scores[0, order].tolist() == [0.0, 1.0, 2.0]
    assert batch.signals.dark[order].tolist() == [False, False, True]
    assert batch.signals.members.shape == (0, 1, 3)
    assert batch.known_positives.tolist() == [passage_keys(["p0"]).tolist()]


def test_pairs_of_the_lists_are_in_the_batch(tmp_path, tokenizer):
    """By a loop over the judged pairs: those with both passages in their query's list."""
    training_set = make_training_set(tmp_path, paired=True)
    pairs = make_pairs(make_candidates()[0])
    batch = BatchMaker(training_set, tokenizer)(ITEMS)
    said = {}
    rows = zip(pairs.query_ids, pairs.passage_i, pairs.passage_j, pairs.log_odds.tolist(), strict=True)
    for query, i, j, odds in rows:
        key, value = ((query, i, j), odds) if (query, j, i) not in said else ((query, j, i), -odds)
        said.setdefault(key, []).append(value)
    expected = {}
    for row, (query, epoch) in enumerate(ITEMS):
        shown = training_set.passages.ids(training_set.rows[training_set.list_of(query, epoch)])
        for (owner, i, j), values in said.items():
            if owner == f"q{query}" and i in shown and j in shown:
                expected[row, i, j] = sum(values) / len(values)
    found = {}
    for (row, i, j), odds in zip(batch.signals.pairs.tolist(), batch.signals.log_odds.tolist(), strict=True):
        one, other = batch.passage_ids[i], batch.passage_ids[j]
        key = (row, one, other) if (row, one, other) in expected else (row, other, one)
        found[key] = odds if key[1] == one else -odds
    assert found == pytest.approx(expected, abs=1e-6)
    assert len(found) == len(batch.signals.pairs) > len(ITEMS)
    assert batch.signals.pairs.dtype == torch.int64
    assert batch.signals.log_odds.dtype == torch.float32
