"""Everybody who reads a passage with hidden parts sees the mask of their own tokenizer, and not the parts."""

import numpy as np
import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.data.masks import marked
from retrieval_kd.teachers.bm25 import BM25Teacher
from retrieval_kd.teachers.classifier import load_classifier
from retrieval_kd.teachers.language_model import load_tokenizer
from retrieval_kd.teachers.pair_tokens import PairTokenizer
from retrieval_kd.teachers.prompts import PromptTokenizer
from retrieval_kd.teachers.triple_tokens import TripleTokenizer

QUERY, PLAIN = "w1 w2 w3", "w4 w5 w6 w7"
HIDDEN = marked(PLAIN, [(3, 5), (9, 11)])  # w5 and w7
SPELLED = "w4 [MASK] w6 [MASK]"


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_classifier(tiny, to_train=False)[1]


def words(tokenizer, row):
    return " ".join(tokenizer.convert_ids_to_tokens(row))


def test_a_cross_encoder(tokenizer):
    pairs = PairTokenizer(tokenizer, 20, ("{query}", "{passage}"))
    columns = pairs.encode([QUERY] * 3, [PLAIN, HIDDEN, SPELLED])
    plain, hidden, spelled = (words(tokenizer, row) for row in columns["input_ids"])
    assert plain == "[CLS] w1 w2 w3 [SEP] w4 w5 w6 w7 [SEP]"
    assert hidden == "[CLS] w1 w2 w3 [SEP] w4 [MASK] w6 [MASK] [SEP]"
    assert "[MASK]" not in spelled
    assert set(columns) == set(pairs.encode([QUERY], [PLAIN]))
    assert columns["token_type_ids"][0] == columns["token_type_ids"][1]


def test_a_cross_encoder_that_cuts(tokenizer):
    pairs = PairTokenizer(tokenizer, 8, ("{query}", "{passage}"))
    assert words(tokenizer, pairs.encode([QUERY], [HIDDEN])["input_ids"][0]) == "[CLS] w1 w2 w3 [SEP] w4 [MASK] [SEP]"


def test_queries_hide_nothing(tokenizer):
    pairs = PairTokenizer(tokenizer, 20, ("{query}", "{passage}"))
    assert "[MASK]" not in words(tokenizer, pairs.encode([marked(QUERY, [(0, 2)])], [PLAIN])["input_ids"][0])


def test_a_pairwise_cross_encoder(tokenizer):
    triples = TripleTokenizer(tokenizer, 40)
    rows = triples.encode([QUERY, QUERY], [PLAIN, HIDDEN], [HIDDEN, PLAIN])["input_ids"]
    assert words(tokenizer, rows[0]) == "[CLS] w1 w2 w3 [SEP] w4 w5 w6 w7 [SEP] w4 [MASK] w6 [MASK] [SEP]"
    assert words(tokenizer, rows[1]) == "[CLS] w1 w2 w3 [SEP] w4 [MASK] w6 [MASK] [SEP] w4 w5 w6 w7 [SEP]"


@pytest.mark.parametrize("length", [9, 12, 40])
def test_a_prompt_cut_or_not(tokenizer, length):
    prompts = PromptTokenizer(tokenizer, "{query} w9 {passage}", ("query", "passage"), length, left=False)
    plain, hidden = prompts.encode([QUERY, QUERY], [PLAIN, HIDDEN])["input_ids"]
    assert len(hidden) <= length
    seen = words(tokenizer, hidden)
    assert "w5" not in seen and "w7" not in seen  # noqa: PT018
    assert seen.startswith("[CLS] w1 w2 w3 w9 w4 [MASK]")
    if length == 40:
        assert seen == words(tokenizer, plain).replace("w5", "[MASK]").replace("w7", "[MASK]")


def test_a_prompt_without_a_mask_token(t5):
    prompts = PromptTokenizer(load_tokenizer(t5)[1], "{query} {passage}", ("query", "passage"), 40, left=False)
    with pytest.raises(UserError, match=r"has no mask token.*negatives\.made\.masked\.variant=delete"):
        prompts.encode([QUERY], [HIDDEN])
    assert prompts.encode([QUERY], [PLAIN])["input_ids"]


def test_bm25_counts_what_is_shown():
    class Index:
        fingerprint = "index"

        def score_texts(self, queries, passages):
            return np.array([len(set(q.split()) & set(p.split())) for q, p in zip(queries, passages, strict=True)])

    assert BM25Teacher(Index()).score([PLAIN] * 2, [PLAIN, HIDDEN]).tolist() == [4, 2]
