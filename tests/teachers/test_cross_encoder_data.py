import math
from functools import partial

import pytest
import torch
from transformers import AutoTokenizer

from retrieval_kd.contracts import UserError
from retrieval_kd.data.length_groups import plan_groups
from retrieval_kd.teachers.cross_encoder_data import (
    DrawnLists,
    DrawnScores,
    EpochOrder,
    LabelledList,
    ListCollator,
    training_loader,
)
from retrieval_kd.teachers.pair_tokens import PairTokenizer


def labelled(number, negatives=6, positives=1):
    names = [f"w{number} w{i}" for i in range(positives + negatives)]
    return LabelledList(f"q{number}", f"w{number}", names, [1] * positives + [0] * negatives)


@pytest.fixture
def lists():
    return [labelled(0), labelled(1, positives=2), labelled(2, negatives=1), labelled(3)]


def test_a_draw_is_one_positive_and_distinct_negatives(lists):
    dataset = DrawnLists(lists, negatives=3, seed=0)
    for number, item in enumerate(lists):
        drawn = dataset[0, number]
        assert list(drawn.labels) == [1] + [0] * min(3, item.labels.count(0))
        assert len(set(drawn.passages)) == len(drawn.passages)
        labels = dict(zip(item.passages, item.labels, strict=True))
        assert [labels[passage] for passage in drawn.passages] == list(drawn.labels)


def test_draws_depend_on_seed_epoch_and_query_alone(lists):
    dataset = DrawnLists(lists, negatives=3, seed=0)
    alone = DrawnLists([lists[3]], negatives=3, seed=0)
    assert [dataset[e, 3] for e in range(5)] == [alone[e, 0] for e in range(5)]
    assert len({tuple(dataset[e, 3].passages) for e in range(8)}) > 1
    assert len({tuple(DrawnLists(lists, 3, seed)[0, 3].passages) for seed in range(8)}) > 1


def test_every_candidate_is_drawn_in_time(lists):
    dataset = DrawnLists(lists, negatives=3, seed=0)
    assert {p for e in range(60) for p in dataset[e, 1].passages} == set(lists[1].passages)


def test_lists_that_teach_nothing_are_left_out_and_none_left_is_an_error(lists):
    useless = [labelled(7, positives=0), labelled(8, negatives=0)]
    assert [item.query_id for item in DrawnLists([*useless, *lists], 2, 0).lists] == ["q0", "q1", "q2", "q3"]
    with pytest.raises(UserError, match="none of the 2 lists"):
        DrawnLists(useless, 2, 0)
    with pytest.raises(UserError, match="negatives=0"):
        DrawnLists(lists, 0, 0)


def test_an_epoch_visits_every_list_in_its_own_order():
    order = EpochOrder(20, seed=1)
    first = list(order)
    assert first == list(order)
    order.set_epoch(1)
    second = list(order)
    assert {epoch for epoch, _ in second} == {1}
    assert sorted(n for _, n in first) == sorted(n for _, n in second) == list(range(20))
    assert [n for _, n in first] != [n for _, n in second]


def test_a_batch_pads_short_lists_and_keeps_pairs_in_order(lists, tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    collator = ListCollator(PairTokenizer(tokenizer, 16, ("{query}", "{passage}")), partial(plan_groups, overhead=8))
    dataset = DrawnLists(lists, negatives=3, seed=0)
    (batch,) = training_loader(dataset, collator, batch_size=4)
    assert batch.labels.shape == batch.mask.shape == (4, 4)
    assert batch.mask.sum(1).sort().values.tolist() == [2, 4, 4, 4]
    assert torch.equal(batch.labels.sum(1), torch.ones(4))
    assert sum(len(group["input_ids"]) for group in batch.pairs.groups) == 14
    drawn = [dataset[key] for key in EpochOrder(4, 0)]
    texts = [f"[CLS] {item.query} [SEP] {passage} [SEP]" for item in drawn for passage in item.passages]
    rows = [row[row != 0] for group in batch.pairs.groups for row in group["input_ids"]]
    seen = [" ".join(tokenizer.convert_ids_to_tokens(row)) for row in rows]
    assert seen == [texts[i] for i in batch.pairs.order.tolist()]


def scored(*scores, number=0):
    return LabelledList(f"q{number}", f"w{number}", [f"w{number} w{i}" for i in range(len(scores))], list(scores))


def test_a_draw_of_scores_is_the_best_and_some_others():
    dataset = DrawnScores([scored(0.1, 0.7, math.nan, -0.2, 0.6, 0.7)], negatives=2, seed=0, temperature=0.1)
    drawn = [dataset[epoch, 0] for epoch in range(60)]
    scores = {f"w0 w{i}": score for i, score in enumerate((0.1, 0.7, math.nan, -0.2, 0.6, 0.7))}
    for one in drawn:
        assert list(one.labels) == pytest.approx([10 * scores[passage] for passage in one.passages])
        assert one.labels[0] == pytest.approx(7)
        assert len(set(one.passages)) == 3
    assert {one.passages[0] for one in drawn} == {"w0 w1", "w0 w5"}  # both are the best
    assert {passage for one in drawn for passage in one.passages[1:]} == {"w0 w0", "w0 w3", "w0 w4"}  # no unscored one
    assert dataset[3, 0] == DrawnScores(dataset.lists, 2, 0, 1.0)[3, 0]


def test_lists_of_equal_scores_teach_nothing():
    useless = [scored(0.5, 0.5), scored(0.5, math.nan, number=1), scored(number=2)]
    assert len(DrawnScores([*useless, scored(0.1, 0.2, number=3)], 1, 0, 1.0)) == 1
    with pytest.raises(UserError, match=r"none of the 3 lists .* two passages of unequal scores"):
        DrawnScores(useless, 1, 0, 1.0)
    with pytest.raises(UserError, match="temperature=0"):
        DrawnScores(useless, 1, 0, 0)
