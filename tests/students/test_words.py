"""Token states beside representations: only in training, only if a term asks, of exactly the tokens of the texts."""

from types import SimpleNamespace

import pytest
import torch
from late_case import make_late, make_marked
from torch import nn
from training_case import make_batch, make_student, make_training

from retrieval_kd.contracts import Side, Signal
from retrieval_kd.data.tokenize import same_tokens
from retrieval_kd.students.bi_encoder import BiEncoder


class Asking(nn.Module):
    """An objective that needs attention."""

    needs = frozenset({Signal.ATTENTION})


@pytest.fixture(scope="module")
def marked(tiny, tmp_path_factory):
    return make_marked(tiny, tmp_path_factory.mktemp("marked") / "encoder")


@pytest.fixture(params=["dense", "late interaction"])
def student(request, tiny, marked):
    made = make_student(tiny, dropout=False) if request.param == "dense" else make_late(marked)
    return made.eval()


def asked(student):
    student.prepare(make_training(objective=Asking()))
    return student


def test_words_are_the_tokens_that_texts_are_made_of(student, training_set):
    batch = make_batch(training_set, student, range(6))
    asked(student)
    tokenizer = student.tokenizer.tokenizer
    for tokens, side in ((batch.queries, Side.QUERY), (batch.passages, Side.PASSAGE)):
        found = student.encode(tokens, side)
        if side is Side.QUERY:
            texts = [training_set.query_texts[query] for query in range(6)]
        else:
            texts = training_set.passages.texts(training_set.passages.rows(batch.passage_ids))
        prompt, length = student.tokenizer.sides[side].prompt, student.tokenizer.sides[side].max_length
        special = len(tokenizer("a")["input_ids"]) - 1 + (not isinstance(student, BiEncoder))
        said = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        for row, text in enumerate(texts):
            expected = tokenizer(text, add_special_tokens=False)["input_ids"][: length - special - said]
            assert found["word_lengths"][row] == len(expected)
            assert found["word_ids"][row, : len(expected)].tolist() == expected
        assert found["words"].shape[:2] == found["word_ids"].shape
        assert found["words"].requires_grad


def test_states_are_those_of_their_tokens(student, training_set):
    batch = make_batch(training_set, student, range(6))
    plain = student.encode(batch.passages, Side.PASSAGE)
    found = asked(student).encode(batch.passages, Side.PASSAGE)
    for name, value in plain.items():
        assert torch.equal(found[name], value), name
    if isinstance(student, BiEncoder):
        group = batch.passages.groups[0]
        states = student.encoder(input_ids=group.input_ids, attention_mask=group.attention_mask).last_hidden_state
        row = int(batch.passages.order[0])
        length = int(found["word_lengths"][row])
        said = student.tokenizer.prompt_tokens(Side.PASSAGE)
        torch.testing.assert_close(found["words"][row, :length], states[0, 1 + said : 1 + said + length])
    else:
        length = int(found["word_lengths"][0])
        scored = ~student._skipped[found["word_ids"][0, :length]]
        between = slice(2, int(found["lengths"][0]) - 1)  # [CLS], the marker; [SEP]
        torch.testing.assert_close(found["words"][0, :length][scored], found["tokens"][0, between])


def test_nothing_of_it_outside_of_training(student):
    asked(student)
    names = set(student.encode_texts(["red bird"], Side.PASSAGE))
    assert names == ({"vectors"} if isinstance(student, BiEncoder) else {"tokens", "lengths"})


def test_nothing_of_it_unless_a_term_asks(student, training_set):
    student.prepare(make_training(("contrastive",)))
    names = set(student.encode(make_batch(training_set, student, range(4)).passages, Side.PASSAGE))
    assert names == ({"vectors"} if isinstance(student, BiEncoder) else {"tokens", "lengths"})


def test_word_level_trains_either_student(student, training_set, monkeypatch):
    """The step itself, with a teacher of the side: every parameter gets a gradient, cached or not."""
    kind = type(student)
    monkeypatch.setattr(kind, "progress", 0.5)
    monkeypatch.setattr(kind, "log_dict", lambda *_, **__: None)
    found = []
    for cached in (False, True):
        student.prepare(make_training(("word_level",), gradient_cache=cached, temperature=0.1))
        student.zero_grad(set_to_none=True)
        loss = student.training_step(make_batch(training_set, student, range(6)), 0)
        loss.backward()
        assert loss > 0
        found.append({name: value.grad for name, value in student.named_parameters() if value.grad is not None})
    plain, cached = found
    assert plain.keys() == cached.keys()
    assert all(torch.equal(value, cached[name]) for name, value in plain.items())
    assert max(value.abs().max() for value in plain.values()) > 1e-4


def test_tokens_are_the_same_or_not(tiny, marked):
    plain, more = (make_student(tiny).tokenizer.tokenizer, make_late(marked).tokenizer.tokenizer)
    assert same_tokens(plain, plain)
    assert same_tokens(more, plain)  # markers that the teacher does not know
    assert not same_tokens(plain, more)
    vocabulary = plain.get_vocab()
    words = sorted(vocabulary, key=vocabulary.get)
    swapped = {word: number for number, word in enumerate([*words[:-2], words[-1], words[-2]])}
    assert not same_tokens(plain, type(plain)(vocab=swapped))
    cased = type(plain)(vocab={word: number for number, word in enumerate(words)}, do_lower_case=False)
    assert not same_tokens(plain, cased)
    assert not same_tokens(SimpleNamespace(get_vocab=dict), plain)
