import json
import math
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from retrieval_kd.contracts import Passage, UserError
from retrieval_kd.data import token_weights
from retrieval_kd.data.passages import PassageStore
from retrieval_kd.data.token_weights import (
    PlainTokens,
    document_frequencies,
    idf,
    idf_weights,
    read_token_weights,
    special_ids,
    tokenizer_vocabulary,
    write_token_weights,
)

TEXTS = ["the river the river", "", "a tree, the end [SEP]", "ß ☃", *[f"number {i}" for i in range(30)]]
MS_MARCO = 8_841_823


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture
def store(tmp_path):
    return PassageStore.build(tmp_path / "store", (Passage(str(i), "", text) for i, text in enumerate(TEXTS)))


def test_formula_gives_the_published_table():
    """Its largest values are those of 1, 2, 3 … passages; of others the count follows from the value."""
    assert idf(np.array([1]), MS_MARCO)[0] == pytest.approx(15.58954, abs=1e-5)
    for value in (0.01605, 0.1353, 0.4989, 2.7699, 5.7729):
        df = round((MS_MARCO + 1) / math.exp(value) - 0.5)  # idf = ln((N + 1) / (df + .5))
        assert idf(np.array([df]), MS_MARCO)[0] == pytest.approx(value, abs=1e-5)
    found = idf(np.array([0, MS_MARCO]), MS_MARCO)
    assert found[0] == 1.0
    assert 0 < found[1] < 1e-6
    assert found.dtype == np.float32


@pytest.mark.parametrize("batch", [1, 7, 1024])
def test_frequencies_are_what_loops_count(tokenizer, store, batch, monkeypatch):
    monkeypatch.setattr(token_weights, "BATCH", batch)
    counts, documents = document_frequencies(tokenizer, store)
    by_hand, filled = dict.fromkeys(range(len(tokenizer)), 0), 0
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        filled += bool(ids)
        for row in set(ids):
            by_hand[row] += 1
    assert dict(enumerate(counts.tolist())) == by_hand
    assert documents == filled == len(TEXTS) - 1
    assert counts[tokenizer.convert_tokens_to_ids("the")] == 2


def test_idf_weights_of_a_collection(tokenizer, store):
    weights = idf_weights(tokenizer, store)
    assert not weights[special_ids(tokenizer)].any()
    row = tokenizer.convert_tokens_to_ids("river")
    assert weights[row] == pytest.approx(math.log(1 + (33 - 1 + 0.5) / 1.5), rel=1e-6)
    assert weights[tokenizer.convert_tokens_to_ids("queen")] == 1.0
    assert tokenizer.unk_token_id in special_ids(tokenizer)


def test_plain_tokens_are_those_of_the_tokenizer(tokenizer):
    plain = PlainTokens(tokenizer)
    # What transformers leaves in the backend of the original must not reach the copy.
    tokenizer(TEXTS, padding=True, truncation=True, max_length=3)
    expected = [tokenizer(t, add_special_tokens=False, split_special_tokens=True)["input_ids"] for t in TEXTS]
    assert plain(TEXTS) == expected
    assert [plain([text])[0] for text in TEXTS] == expected
    assert plain([]) == []
    assert max(map(len, expected)) > 5


def test_a_tokenizer_without_backend_gives_the_same(tokenizer):
    class Slow:
        def __call__(self, *args, **kwargs):
            return tokenizer(*args, **kwargs)

    slow = PlainTokens(Slow())
    assert slow(TEXTS) == PlainTokens(tokenizer)(TEXTS)
    assert slow([]) == []


@pytest.mark.parametrize("name", ["idf.json", "query_token_weights.txt"])
def test_both_forms_give_back_every_bit(tokenizer, tmp_path, name):
    vocabulary = tokenizer_vocabulary(tokenizer)
    weights = np.random.default_rng(0).gamma(1.0, 5.0, len(vocabulary)).astype(np.float32)
    weights[special_ids(tokenizer)] = 0.0
    path = tmp_path / name
    write_token_weights(path, vocabulary, weights)
    assert np.array_equal(read_token_weights(path, vocabulary, special_ids(tokenizer)), weights)
    assert list(tmp_path.iterdir()) == [path]


def test_forms_are_what_others_read(tmp_path):
    vocabulary, weights = ["[PAD]", "the", "##s", "ß"], np.array([0, 0.1353, 5, 1e-7], np.float32)
    write_token_weights(tmp_path / "idf.json", vocabulary, weights)
    assert json.loads((tmp_path / "idf.json").read_text()) == {"[PAD]": 0.0, "the": 0.1353, "##s": 5.0, "ß": 1e-7}
    write_token_weights(tmp_path / "w.txt", vocabulary, weights)
    assert (tmp_path / "w.txt").read_text().splitlines() == ["[PAD]\t0.0", "the\t0.1353", "##s\t5.0", "ß\t1e-07"]


def test_special_tokens_are_silent_whatever_the_file_says(tmp_path):
    path = tmp_path / "idf.json"
    path.write_text('{"[UNK]": 1.0, "the": 2, "[CLS]": 3.0}')
    assert read_token_weights(path, ["[PAD]", "[UNK]", "the", "[CLS]"], [0, 1, 3]).tolist() == [0, 0, 2, 0]
    path.write_text('{"the": 2}')
    assert read_token_weights(path, ["[PAD]", "[UNK]", "the"], [0, 1]).tolist() == [0, 0, 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"the": 1.0, "a": 2.0}', r"1 of 4 tokens have no weight, first 'river'"),
        ('{"the": 1, "a": 2, "river": 3, "▁the": 1}', r"1 of 4 .* not in the student's vocabulary, first '▁the'"),
        ('{"the": 1, "a": -2, "river": 3}', r"the weight of 'a' is -2.0; a finite number >= 0 is needed"),
        ('{"the": 1, "a": NaN, "river": 3}', r"the weight of 'a' is nan"),
        ('{"the": 1, "a": Infinity, "river": 3}', r"the weight of 'a' is inf"),
        ('{"the": 1, "a": "2", "river": 3}', r"the weight of 'a' is \"2\""),
        ('{"the": 1, "a": null, "river": 3}', r"the weight of 'a' is null"),
        ('{"the": 1, "a": true, "river": 3}', r"the weight of 'a' is true"),
        ('{"the": 1, "the": 2}', r"token 'the' is given twice"),
        ('{"the": 1,\n "a" 2}', r"weights:2: not JSON"),
        ("the\t1\na\t2\n", r"1 of 4 tokens have no weight, first 'river'"),
        ("the\t1\na 2\nriver\t3", r"weights:2: a token, a tab and a weight are expected, not 'a 2'"),
        ("the\t1\na\ttwo\n", r"weights:2: a token, a tab"),
        ("the\t1\na\tnan\nriver\t3", r"the weight of 'a' is nan"),
        ("the\t1\nthe\t2\n", r"token 'the' is given twice"),
        ("", "no weights in it"),
        ("{}", "no weights in it"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, content, says):
    path = tmp_path / "weights"
    path.write_text(content)
    with pytest.raises(UserError, match=says) as error:
        read_token_weights(path, ["[PAD]", "the", "a", "river"], [0])
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_token_weights(tmp_path / "none", ["the"], [])
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read: is not UTF-8"):
        read_token_weights(tmp_path / "bytes", ["the"], [])


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="cannot stand in a file of lines"):
        write_token_weights(tmp_path / "w.txt", ["a\nb"], np.ones(1))
    with pytest.raises(ValueError, match="2 weights for 1 tokens"):
        write_token_weights(Path(tmp_path / "w.txt"), ["a"], np.ones(2))
    assert list(tmp_path.iterdir()) == []
    write_token_weights(tmp_path / "w.json", ["a\nb", "\t"], np.ones(2))
    assert read_token_weights(tmp_path / "w.json", ["a\nb", "\t"], []).tolist() == [1, 1]


def test_ids_without_a_token_have_names_of_their_own():
    class Holes:
        def get_vocab(self):
            return {"a": 0, "c": 2}

    assert tokenizer_vocabulary(Holes()) == ["a", "[no token 1]", "c"]
