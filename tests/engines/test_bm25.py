import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from retrieval_kd.contracts import UserError
from retrieval_kd.engines.bm25 import BM25, SETTINGS, singular

TEXTS = [
    "The cat sat on the mat",
    "Dogs chase cats; a dog chased the cat_toy",
    "Linear algebra of matrices",
    "",
    "matrix matrix matrix algebra",
    "The cat sat on the mat",
    "Ünïcode naïve café 42",
]


class Texts:
    path = Path("passages")

    def __init__(self, texts):
        self.all = texts

    def __len__(self):
        return len(self.all)

    def texts(self, rows):
        return [self.all[row] for row in rows]


@pytest.fixture(scope="module")
def words():
    generator = np.random.default_rng(3)
    return [" ".join(f"w{n}" for n in generator.zipf(1.4, generator.integers(1, 40)) if n < 500) for _ in range(400)]


@pytest.fixture(scope="module")
def index(tmp_path_factory, words):
    return BM25.build(tmp_path_factory.mktemp("bm25") / "index", Texts(words), stop_words="none", stemmer="none")


def oracle(query, texts, k1=0.9, b=0.4):
    """Lucene's BM25 without its constant factor, straight from the formula."""
    split = [text.split() for text in texts]
    average = sum(map(len, split)) / len(split)
    scores = []
    for terms in split:
        score = 0.0
        for term in query.split():
            n = sum(term in other for other in split)
            if n:
                tf = Counter(terms)[term]
                idf = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
                score += idf * tf / (tf + k1 * (1 - b + b * len(terms) / average))
        scores.append(score)
    return np.array(scores)


@pytest.mark.parametrize("query", ["w1", "w7 w2 w2", "w3 unknown w11 w1 w40"])
@pytest.mark.parametrize("k", [1, 10, 1000])
def test_search_matches_the_formula(index, words, query, k):
    expected = oracle(query, words)
    rows, scores = index.search([query], k)
    found = rows[0][rows[0] >= 0]
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert rows.shape == scores.shape == (1, k)
    assert len(found) == min(k, (expected > 0).sum())
    np.testing.assert_allclose(scores[0, : len(found)], np.sort(expected)[::-1][: len(found)], rtol=1e-5)
    np.testing.assert_allclose(scores[0, : len(found)], expected[found], rtol=1e-5)
    assert np.isneginf(scores[0, len(found) :]).all()


def test_equal_scores_come_in_the_order_of_rows(tmp_path):
    texts = ["hen fox", "z", "hen fox", "hen fox", "hen", "hen fox"]
    index = BM25.build(tmp_path / "i", Texts(texts))
    assert index.search(["fox"], 4).rows.tolist() == [[0, 2, 3, 5]]
    assert index.search(["fox"], 2).rows.tolist() == [[0, 2]]
    assert index.search(["hen fox"], 5).rows.tolist() == [[0, 2, 3, 5, 4]]


def test_blocks_do_not_matter(index, words, monkeypatch):
    whole = index.search(words[:50], 20)
    monkeypatch.setattr("retrieval_kd.engines.bm25.SCORES_AT_ONCE", 3 * len(words))
    for one, other in zip(whole, index.search(words[:50], 20), strict=True):
        np.testing.assert_array_equal(one, other)


def test_texts_score_as_they_do_in_the_collection(index, words):
    queries = [" ".join(text.split()[:4]) for text in words[:60]]
    rows, scores = index.search(queries, 30)
    query, rank = np.nonzero(rows >= 0)
    again = index.score_texts([queries[q] for q in query], [words[row] for row in rows[query, rank]])
    assert len(query) > 300
    np.testing.assert_array_equal(again, scores[query, rank])


def test_a_made_text_uses_the_statistics_of_the_collection(index, words):
    average = sum(len(text.split()) for text in words) / len(words)
    n = sum("w5" in text.split() for text in words)
    expected = math.log(1 + (len(words) - n + 0.5) / (n + 0.5)) * 2 / (2 + 0.9 * (0.6 + 0.4 * 4 / average))
    made = "w5 never seen w5"
    scores = index.score_texts(["w5 never", "never seen", "w5 w5"], [made, made, made])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [expected, 0, 2 * expected], rtol=1e-6)


def test_words(tmp_path):
    index = BM25.build(tmp_path / "i", Texts(TEXTS))
    rows = index.search(["CAT", "the", "matrices", "toy", "naïve", "", "dogs"], 4).rows.tolist()
    assert rows[0] == [1, 0, 5, -1]  # twice and longer, then two equal ones; singular and plural are one word
    assert rows[1] == [-1] * 4  # a stop word
    assert rows[2] == [2, -1, -1, -1]
    assert rows[3] == [1, -1, -1, -1]  # identifiers fall into words
    assert rows[4] == [6, -1, -1, -1]
    assert rows[5] == [-1] * 4
    assert rows[6] == [1, -1, -1, -1]


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("matrices", "matrice"),
        ("matrice", "matrice"),
        ("queries", "query"),
        ("ties", "tie"),
        ("cats", "cat"),
        ("corpus", "corpus"),
        ("class", "class"),
        ("axes", "axe"),
        ("has", "has"),
        ("is", "is"),
    ],
)
def test_singular(word, stem):
    assert singular(word) == stem


def test_fingerprint_names_settings_and_texts(tmp_path):
    def fingerprint(name, texts, **settings):
        return BM25.build(tmp_path / name, Texts(texts), **settings).fingerprint

    base = fingerprint("a", ["one two", "three"])
    assert base == fingerprint("b", ["one two", "three"]) == BM25(tmp_path / "a").fingerprint
    others = [
        fingerprint("c", ["one two", "four"]),
        fingerprint("d", ["three", "one two"]),
        fingerprint("e", ["one two", "three"], k1=1.2),
        fingerprint("f", ["one two", "three"], b=0.5),
        fingerprint("g", ["one two", "three"], stop_words="none"),
        fingerprint("h", ["one two", "three"], stemmer="none"),
    ]
    assert len({base, *others}) == 7


def test_mistakes_are_told_in_a_line(tmp_path):
    with pytest.raises(UserError, match="no passages"):
        BM25.build(tmp_path / "a", Texts([]))
    with pytest.raises(UserError, match="no passage has a word"):
        BM25.build(tmp_path / "a", Texts(["the", "..."]))
    with pytest.raises(UserError, match="english or none, not 'klingon'"):
        BM25.build(tmp_path / "a", Texts(["word"]), stop_words="klingon")
    with pytest.raises(UserError, match="none or plural, not 'porter'"):
        BM25.build(tmp_path / "a", Texts(["word"]), stemmer="porter")
    with pytest.raises(UserError, match="k1=-1"):
        BM25.build(tmp_path / "a", Texts(["word"]), k1=-1)
    with pytest.raises(UserError, match="not a BM25 index"):
        BM25(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_one_word_collection_and_settings_on_disk(tmp_path):
    index = BM25.build(tmp_path / "i", Texts(["word"]), k1=1.5)
    assert json.loads((tmp_path / "i" / SETTINGS).read_text())["settings"]["k1"] == 1.5
    assert len(index) == 1
    assert index.search(["word", "other"], 2).rows.tolist() == [[0, -1], [-1, -1]]
    assert index.score_texts([], []).shape == (0,)
    assert index.search([], 3).rows.shape == (0, 3)
