import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, XLMRobertaTokenizer

from retrieval_kd.contracts import Side
from retrieval_kd.data.length_groups import budget_groups
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer

TEXTS = ["water", "a red bird and a blue fish in the river", "the queen", "music of the mountain people", ""]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


def make(tokenizer, query=("", 16), passage=("", 16)):
    return TextTokenizer(tokenizer, SideSettings(*query), SideSettings(*passage))


def test_ids_are_the_tokenizers_own(tokenizer):
    expected = [tokenizer(text)["input_ids"] for text in TEXTS]
    assert make(tokenizer).ids(TEXTS, Side.PASSAGE) == expected
    assert expected[0][0] == tokenizer.cls_token_id
    assert expected[0][-1] == tokenizer.sep_token_id


def test_each_side_has_its_prompt_and_length(tokenizer):
    made = make(tokenizer, query=("find ", 6), passage=("text : ", 9))
    for side, prompt, length in ((Side.QUERY, "find ", 6), (Side.PASSAGE, "text : ", 9)):
        expected = [tokenizer(prompt + text, truncation=True, max_length=length)["input_ids"] for text in TEXTS]
        assert made.ids(TEXTS, side) == expected
        assert max(map(len, expected)) == length
        assert all(ids[-1] == tokenizer.sep_token_id for ids in expected)


@pytest.mark.parametrize("prompt", ["", " ", "find ", "find the : ", "Represent this: "])
def test_tokens_of_a_prompt(tokenizer, prompt):
    """They come before those of any text, whatever it begins with."""
    made = make(tokenizer, query=(prompt, 64))
    count = made.prompt_tokens(Side.QUERY)
    assert count == len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    assert made.prompt_tokens(Side.PASSAGE) == 0
    for text in TEXTS:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert made.ids([text], Side.QUERY)[0][1 + count : -1] == expected


@pytest.mark.parametrize("text", ["[SEP]", "red [MASK] bird", "[CLS][PAD] fish [UNK]", "a[SEP]b"])
def test_text_that_spells_a_special_token_is_text(tokenizer, text):
    ids = make(tokenizer).ids([text], Side.QUERY)[0]
    special = set(tokenizer.all_special_ids)
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert not special & (set(ids[1:-1]) - {tokenizer.unk_token_id})
    plain = tokenizer(text)["input_ids"]
    assert tokenizer.mask_token_id in plain or "[MASK]" not in text  # else the test proves nothing
    spelled = tokenizer.convert_ids_to_tokens(ids[1:-1])
    assert "[" in spelled


def make_unigram_tokenizer():
    """XLM-RoBERTa's kind: its model knows the special tokens as pieces and finds them in text."""
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    pieces = [(piece, -3.0) for piece in ("▁", "▁red", "▁bird", "<", ">", "/", "s")]
    return XLMRobertaTokenizer(vocab=[*special, *pieces, ("<mask>", 0.0)])


def test_a_model_that_knows_the_special_tokens_does_not_give_them_away():
    tokenizer = make_unigram_tokenizer()
    texts = ["red </s> bird <mask>", "<pad>red", "red bird"]
    given_away = tokenizer(texts[0], split_special_tokens=True)["input_ids"]
    assert tokenizer.mask_token_id in given_away  # else the test proves nothing
    found = [tokenizer.convert_ids_to_tokens(ids) for ids in make(tokenizer).ids(texts, Side.QUERY)]
    for tokens in found:
        assert (tokens[0], tokens[-1]) == ("<s>", "</s>")
        assert not {"<s>", "</s>", "<pad>", "<mask>"} & set(tokens[1:-1])
    assert "<unk>" in found[0]
    assert found[2] == ["<s>", "▁red", "▁bird", "</s>"]


def test_groups_hold_every_text_once_padded_right_and_in_order(tokenizer):
    made = make(tokenizer, passage=("", 8))
    expected = made.ids(TEXTS, Side.PASSAGE)
    tokens = made.groups(TEXTS, Side.PASSAGE, lambda lengths: budget_groups(lengths, 16))
    assert len(tokens.groups) > 1
    assert sorted(tokens.order.tolist()) == list(range(len(TEXTS)))
    rows = [
        (ids[mask.bool()].tolist(), ids[~mask.bool()], mask)
        for group in tokens.groups
        for ids, mask in zip(group.input_ids, group.attention_mask, strict=True)
    ]
    assert [row[0] for row in rows] == [expected[i] for i in tokens.order]
    for ids, padding, mask in rows:
        assert (padding == tokenizer.pad_token_id).all()
        assert mask.tolist() == [1] * len(ids) + [0] * len(padding)
    for group in tokens.groups:
        assert group.input_ids.dtype == torch.int64
        assert group.attention_mask.sum(1).max() == group.input_ids.shape[1]
    lengths = np.array([len(row[0]) for row in rows])
    assert (np.diff(lengths) >= 0).all()


def test_no_texts(tokenizer):
    made = make(tokenizer)
    assert made.ids([], Side.QUERY) == []
    tokens = made.groups([], Side.QUERY, lambda lengths: budget_groups(lengths, 16))
    assert tokens.groups == ()
    assert len(tokens.order) == 0


def test_a_tokenizer_without_padding_is_refused():
    tokenizer = make_unigram_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        make(tokenizer)
