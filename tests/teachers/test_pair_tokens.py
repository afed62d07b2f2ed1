from functools import partial

import pytest
import torch
from transformers import AutoTokenizer

from retrieval_kd.data.length_groups import budget_groups
from retrieval_kd.teachers.pair_tokens import PairTokenizer

CLS, SEP = 2, 3


@pytest.fixture
def pairs(tiny):
    return PairTokenizer(AutoTokenizer.from_pretrained(tiny), max_length=12, templates=("{query}", "{passage}"))


def words(pairs, ids):
    return pairs.tokenizer.convert_ids_to_tokens(ids)


def text(start, count):
    return " ".join(f"w{i}" for i in range(start, start + count))


def test_a_pair_that_fits_is_whole(pairs):
    columns = pairs.encode(["w1 w2"], ["w3"])
    assert words(pairs, columns["input_ids"][0]) == ["[CLS]", "w1", "w2", "[SEP]", "w3", "[SEP]"]
    assert columns["token_type_ids"] == [[0, 0, 0, 0, 1, 1]]


def test_the_passage_is_cut_and_the_query_is_not(pairs):
    for size in range(1, 9):
        ids = pairs.encode([text(0, size)], [text(10, 20)])["input_ids"][0]
        assert len(ids) == 12
        assert words(pairs, ids)[1 : size + 1] == text(0, size).split()
        assert words(pairs, ids)[size + 2 : -1] == text(10, 9 - size).split()


@pytest.mark.parametrize("size", [9, 10, 30])
def test_a_query_that_alone_is_too_long_is_cut_and_its_neighbours_are_not_touched(pairs, size):
    columns = pairs.encode(["w1", text(0, size), "w2"], [text(10, 20), "w3 w4", "w5"])
    assert words(pairs, columns["input_ids"][1])[1:-4] == text(0, 7).split()
    assert words(pairs, columns["input_ids"][1])[-4:] == ["[SEP]", "w3", "w4", "[SEP]"]
    assert [columns["input_ids"][0]] == pairs.encode(["w1"], [text(10, 20)])["input_ids"]
    assert words(pairs, columns["input_ids"][2]) == ["[CLS]", "w2", "[SEP]", "w5", "[SEP]"]


def test_text_that_spells_special_tokens_is_text(pairs):
    ids = pairs.encode(["w1 [SEP]"], ["[CLS] [PAD] w2"])["input_ids"][0]
    assert [i for i in ids if i in (CLS, SEP)] == [CLS, SEP, SEP]
    assert pairs.tokenizer.pad_token_id not in ids
    assert words(pairs, ids)[:6] == ["[CLS]", "w1", "[", "sep", "]", "[SEP]"]


def test_templates_are_filled_once(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    pairs = PairTokenizer(tokenizer, 20, ("w30 {query} w31", "w32 {passage}"))
    ids = pairs.encode(["w1"], ["w2"])["input_ids"][0]
    assert words(pairs, ids) == ["[CLS]", "w30", "w1", "w31", "[SEP]", "w32", "w2", "[SEP]"]


def test_groups_hold_every_pair_once_within_the_budget_longest_first(pairs):
    sizes = [3, 1, 6, 2, 2, 5, 1]
    columns = pairs.encode(["w1"] * 7, [text(2, size) for size in sizes])
    batch = pairs.batch(columns, partial(budget_groups, budget=20))
    assert sorted(batch.order.tolist()) == list(range(7))
    widths = [group["input_ids"].shape[1] for group in batch.groups]
    assert widths == sorted(widths, reverse=True)
    row = 0
    for group in batch.groups:
        assert group["input_ids"].numel() <= 20
        for ids, types, mask in zip(
            *(group[n] for n in ("input_ids", "token_type_ids", "attention_mask")), strict=True
        ):
            pair = int(batch.order[row])
            row += 1
            assert ids[mask.bool()].tolist() == columns["input_ids"][pair]
            assert types[mask.bool()].tolist() == columns["token_type_ids"][pair]
            assert torch.equal(mask, (torch.arange(len(ids)) < sizes[pair] + 4).long())
            assert (ids[~mask.bool()] == pairs.tokenizer.pad_token_id).all()
    assert row == 7
