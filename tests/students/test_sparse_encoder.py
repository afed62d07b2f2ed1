import copy
import json
import logging

import numpy as np
import pytest
import torch
from training_case import SIDES, fit, make_batch, make_texts, make_training
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM

from retrieval_kd.contracts import Passage, Side, UserError
from retrieval_kd.data.passages import PassageStore
from retrieval_kd.students.sparse_encoder import build_sparse_encoder

TEXTS = [*make_texts(9, 11), "", "red [SEP] bird [MASK] red", "ein Fluß ☃ " + "stone " * 40]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def weights(tokenizer):
    return np.random.default_rng(0).gamma(2.0, 1.0, len(tokenizer)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    texts = make_texts(300, 7)
    path = tmp_path_factory.mktemp("passages") / "store"
    return PassageStore.build(path, (Passage(str(i), "", text) for i, text in enumerate(texts)))


@pytest.fixture
def make(tiny, weights):
    def make(**changes):
        settings = {"encoder": {"name": str(tiny), "layers": None}, "logs": 1, "prune": 0.0, **SIDES}
        settings |= {"query_weights": "idf", "token_weights": weights}
        settings |= {"inference": {"precision": "fp32", "tokens_per_batch": 512}}
        student = build_sparse_encoder(**settings | changes)
        for module in student.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return student

    return make


def dense(student, found):
    """Padded terms as rows, by loops."""
    rows = torch.zeros(len(found["terms"]), len(student.vocabulary))
    for row, length in enumerate(found["lengths"].tolist()):
        for term, weight in zip(found["terms"][row, :length].tolist(), found["weights"][row, :length], strict=True):
            assert weight > 0
            rows[row, term] += weight
        assert found["terms"][row, :length].diff().gt(0).all()
        assert not found["terms"][row, length:].any()
        assert not found["weights"][row, length:].any()
    return rows


def expected_passage(tiny, tokenizer, text, length=24, logs=1, shift=0.0):
    """A plain forward of one text: head tied to the embeddings, maximum over all tokens, special terms silent."""
    model = AutoModel.from_pretrained(tiny, dtype=torch.float32)
    ids = tokenizer(text, truncation=True, max_length=length, split_special_tokens=True, return_tensors="pt")
    with torch.no_grad():
        states = model(input_ids=ids["input_ids"]).last_hidden_state[0]
        values = (states @ model.get_input_embeddings().weight.T + shift).amax(0).relu().log1p()
    values = values.log1p() if logs == 2 else values
    values[tokenizer.all_special_ids] = 0.0
    return values


@pytest.mark.parametrize("logs", [1, 2])
def test_passages_are_those_of_a_plain_forward(tiny, tokenizer, make, logs):
    student = make(logs=logs)
    found = student.encode_texts(TEXTS, Side.PASSAGE)
    expected = torch.stack([expected_passage(tiny, tokenizer, text, logs=logs) for text in TEXTS])
    assert (expected > 0).any(1).all()
    torch.testing.assert_close(dense(student, found), expected, atol=1e-5, rtol=1e-5)
    assert {name: value.dtype for name, value in found.items()} == {
        "terms": torch.int32,
        "weights": torch.float32,
        "lengths": torch.int64,
    }


@pytest.mark.parametrize(("kind", "prompt"), [("binary", ""), ("idf", "find "), ("file", ""), ("learned", "")])
def test_queries_are_presence_times_weight(tokenizer, make, weights, kind, prompt):
    student = make(query_weights=kind, query={"prompt": prompt, "max_length": 12})
    table = np.ones_like(weights) if kind == "binary" else weights.copy()
    table[tokenizer.all_special_ids] = 0.0
    expected = torch.zeros(len(TEXTS), len(table))
    for row, text in enumerate(TEXTS):
        ids = tokenizer(prompt + text, truncation=True, max_length=12, split_special_tokens=True)["input_ids"]
        for term in ids:
            expected[row, term] = float(table[term])
    found = student.encode_texts(TEXTS, Side.QUERY)
    assert torch.equal(dense(student, found), expected)
    groups = student.tokenizer.groups(TEXTS, Side.QUERY, lambda lengths: [(0, len(lengths))])
    trained = student.encode(groups, Side.QUERY)["activations"]
    assert torch.equal(trained, expected)
    for row, text in enumerate(TEXTS):
        assert torch.equal(dense(student, student.query_terms([text]))[0], expected[row])
    assert (expected > 0).any(1)[:9].all()


def test_no_query_and_no_passage(make):
    student = make()
    for side in Side:
        found = student.encode_texts([], side)
        assert found["lengths"].tolist() == []
        assert found["terms"].shape[0] == 0
    assert make(query=SIDES["passage"]).query_terms([""])["terms"].shape == (1, 0)
    assert student.compare(student.query_terms(["red bird"]), student.encode_texts([], Side.PASSAGE)).shape == (1, 0)


def test_cut_on_the_left_where_the_tokenizer_cuts_there(make):
    student = make(query={"prompt": "", "max_length": 5})
    right = student.query_terms(["red bird fish house door"])
    student.tokenizer.tokenizer.truncation_side = "left"
    left = student.query_terms(["red bird fish house door"])
    names = [[student.vocabulary[t] for t in found["terms"][0]] for found in (right, left)]
    assert [set(row) for row in names] == [{"red", "bird", "fish"}, {"fish", "house", "door"}]


def test_compare_is_the_product_of_any_two_forms(make):
    student = make()
    groups = {side: student.tokenizer.groups(TEXTS, side, lambda lengths: [(0, len(lengths))]) for side in Side}
    with torch.no_grad():
        trained = {side: student.encode(groups[side], side) for side in Side}
    padded = {side: student.encode_texts(TEXTS, side) for side in Side}
    expected = dense(student, padded[Side.QUERY]).double() @ dense(student, padded[Side.PASSAGE]).double().T
    assert expected.std() > 0.1
    for queries in (trained[Side.QUERY], padded[Side.QUERY]):
        for passages in (trained[Side.PASSAGE], padded[Side.PASSAGE]):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = student.compare(queries, passages)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


def test_compare_takes_passages_in_parts(make, monkeypatch):
    student = make()
    queries, passages = (student.encode_texts(TEXTS, side) for side in Side)
    whole = student.compare(queries, passages)
    monkeypatch.setattr("retrieval_kd.students.sparse_encoder.PASSAGES_AT_ONCE", 5)
    torch.testing.assert_close(student.compare(queries, passages), whole)


def test_pruning_drops_what_is_small_at_encode_time_only(make):
    full, pruned = make(), make(prune=0.5)
    rows, cut = (dense(s, s.encode_texts(TEXTS, Side.PASSAGE)) for s in (full, pruned))
    expected = torch.where(rows > 0.5 * rows.amax(1, keepdim=True), rows, 0.0)
    assert 0 < (expected > 0).sum() < (rows > 0).sum()
    assert torch.equal(cut, expected)
    groups = pruned.tokenizer.groups(TEXTS, Side.PASSAGE, lambda lengths: [(0, len(lengths))])
    with torch.no_grad():
        torch.testing.assert_close(pruned.encode(groups, Side.PASSAGE)["activations"], rows, atol=1e-6, rtol=1e-5)
    assert torch.equal(pruned.query_terms(TEXTS)["weights"], full.query_terms(TEXTS)["weights"])


def test_symmetric_queries_are_encoded_like_passages(make):
    student = make(query_weights="encoder", token_weights=None, query=SIDES["passage"])
    assert student.query_table is None
    queries, passages = (student.encode_texts(TEXTS, side) for side in Side)
    assert torch.equal(dense(student, queries), dense(student, passages))
    with pytest.raises(ValueError, match="encoded by its model"):
        student.query_terms(TEXTS)


def test_a_file_of_weights(make, tokenizer, weights, tmp_path):
    path = tmp_path / "idf.json"
    path.write_text(json.dumps({token: float(weights[row]) for token, row in tokenizer.get_vocab().items()}))
    assert torch.equal(make(query_weights="file", token_weights=str(path)).query_table, make().query_table)
    path.write_text('{"the": 1.0}')
    with pytest.raises(UserError, match=rf"{path}: .* have no weight"):
        make(query_weights="file", token_weights=str(path))


@pytest.mark.parametrize("terms", [3, 20.5])
def test_calibration_starts_from_as_many_terms_as_asked(make, store, caplog, terms):
    with caplog.at_level(logging.INFO, "retrieval_kd"):
        student = make(passages=store, start_terms=terms)
    shift = student.head.bias[0].item()
    assert torch.equal(student.head.bias, torch.full_like(student.head.bias, shift))
    assert f"shifted by {shift:.4f}: 256 passages have {terms:g} active terms" in caplog.text
    everything = student.encode_texts(store.texts(range(len(store))), Side.PASSAGE)["lengths"]
    assert everything.float().mean().item() == pytest.approx(terms, rel=0.1)
    again = make()
    sample = store.texts(range(40))
    before = copy.deepcopy(again.encoder.state_dict())
    again.calibrate(sample, terms)
    assert again.encode_texts(sample, Side.PASSAGE)["lengths"].float().mean().item() == pytest.approx(terms, abs=0.03)
    assert all(torch.equal(value, before[name]) for name, value in again.encoder.state_dict().items())


def test_texts_without_an_active_term_are_told_once(make, caplog):
    student = make()
    with torch.no_grad():
        student.head.bias.sub_(1e4)
    with caplog.at_level(logging.WARNING, "retrieval_kd"):
        found = student.encode_texts(TEXTS, Side.PASSAGE)
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        "12 of 12 texts (passage side) have no active term: nothing finds them"
    ]
    assert found["lengths"].tolist() == [0] * len(TEXTS)
    scores = student.compare(student.encode_texts(TEXTS, Side.QUERY), found)
    assert torch.equal(scores, torch.zeros(len(TEXTS), len(TEXTS)))


@pytest.mark.parametrize("kind", ["idf", "learned", "encoder"])
def test_every_parameter_learns(make, training_set, kind):
    """One step; nothing may be left without a gradient, or training with several processes stops."""
    student = make(query_weights=kind)
    batch = make_batch(training_set, student, range(6))
    scores = student.compare(student.encode(batch.queries, Side.QUERY), student.encode(batch.passages, Side.PASSAGE))
    scores.square().mean().backward()
    assert [name for name, value in student.named_parameters() if value.grad is None] == []
    special = student.tokenizer.tokenizer.all_special_ids
    assert student.head.bias.grad.count_nonzero() > 10
    assert not student.head.bias.grad[special].any()
    if kind == "learned":
        assert student.query_table.grad.count_nonzero() > 10
        assert not student.query_table.grad[special].any()


@pytest.mark.parametrize("cached", [False, True])
def test_training_moves_the_weights_and_counts_them_once(make, training_set, cached):
    student = make(query_weights="learned")
    before = {name: value.clone() for name, value in student.state_dict().items()}
    student.prepare(make_training(gradient_cache=cached, temperature=1.0))
    trainer = fit(student, training_set, [], max_steps=3)
    assert trainer.global_step == 3
    moved = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert {"query_table", "head.bias", "encoder.embeddings.word_embeddings.weight"} <= moved
    assert not any("decoder" in name for name in student.state_dict())
    optimizer = trainer.optimizers[0]
    assert len(optimizer.param_groups[0]["params"]) == len({id(p) for p in student.parameters()})
    special = student.tokenizer.tokenizer.all_special_ids
    assert not student.query_table[special].any()
    assert (student.encode_texts(TEXTS, Side.QUERY)["weights"] >= 0).all()


def test_weights_below_zero_say_nothing(make):
    student = make(query_weights="learned")
    found = student.query_terms(["red bird"])
    with torch.no_grad():
        student.query_table[found["terms"][0, 0]] = -2.0
    fewer = student.query_terms(["red bird"])
    assert fewer["terms"].tolist() == found["terms"][:, 1:].tolist()


def test_gradients_are_those_of_the_plain_form_with_a_tied_head(make, tiny):
    student = make()
    groups = student.tokenizer.groups(TEXTS, Side.PASSAGE, lambda lengths: [(0, 6), (6, len(lengths))])
    factors = torch.rand(len(TEXTS), len(student.vocabulary))
    (student.encode(groups, Side.PASSAGE)["activations"] * factors).sum().backward()
    plain = AutoModel.from_pretrained(tiny, dtype=torch.float32)
    total, place = 0.0, 0
    for group in groups.groups:
        states = plain(input_ids=group.input_ids, attention_mask=group.attention_mask).last_hidden_state
        every = states @ plain.get_input_embeddings().weight.T
        values = every.masked_fill(group.attention_mask.unsqueeze(-1) == 0, -torch.inf).amax(1).relu().log1p()
        values = values.index_fill(1, torch.tensor(student.tokenizer.tokenizer.all_special_ids), 0.0)
        total = total + (values * factors[groups.order[place : place + len(values)]]).sum()
        place += len(values)
    total.backward()
    expected = {name: value.grad for name, value in plain.named_parameters() if value.grad is not None}
    found = {name: value.grad for name, value in student.encoder.named_parameters()}
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)


def test_a_head_with_more_rows_than_tokens(tokenizer, weights, make, tmp_path):
    size = len(tokenizer) + 7
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=size, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    student = make(encoder={"name": str(tmp_path), "layers": None})
    assert len(student.vocabulary) == len(set(student.vocabulary)) == size == len(student.query_table)
    with torch.no_grad():
        student.head.bias.fill_(5.0)
    found = student.encode_texts(TEXTS, Side.PASSAGE)
    assert found["terms"].max() < len(tokenizer)
    assert found["lengths"].max() == len(tokenizer) - len(tokenizer.all_special_ids)
    student.calibrate(TEXTS, 4)
    assert student.encode_texts(TEXTS, Side.PASSAGE)["lengths"].float().mean().item() == pytest.approx(4)


def test_a_head_with_fewer_rows_than_tokens_is_refused(tokenizer, make, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"its head knows 20 tokens and its tokenizer {len(tokenizer)}"):
        make(encoder={"name": str(tmp_path), "layers": None})


@pytest.mark.slow
def test_fingerprint_names_everything_that_a_representation_depends_on(make, weights, tiny):
    changes = [
        {},
        {"query_weights": "binary"},
        {"query_weights": "encoder"},
        {"token_weights": weights + 1},
        {"logs": 2},
        {"prune": 0.1},
        {"query": {"prompt": "", "max_length": 12}},
        {"passage": {"prompt": "", "max_length": 25}},
        {"encoder": {"name": str(tiny), "layers": 1}},
        {"inference": {"precision": "bf16", "tokens_per_batch": 512}},
    ]
    found = [make(**change).fingerprint for change in changes]
    assert len(set(found)) == len(changes)
    assert make(inference={"precision": "fp32", "tokens_per_batch": 64}).fingerprint == found[0]
    student = make()
    student.head.bias.data[9] += 1
    assert student.fingerprint != found[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query_weights": "bm25"}, r"student\.query_weights=bm25: it is binary, idf, file, learned or encoder"),
        ({"token_weights": None}, r"student\.query_weights=idf: student\.token_weights is not set"),
        ({"token_weights": np.ones(9)}, r"student\.token_weights: 9 weights for a vocabulary of \d+ tokens"),
        ({"logs": 3}, r"student\.logs=3: it is 1 or 2"),
        ({"prune": 1.0}, r"student\.prune=1\.0: a share from 0 to below 1"),
        ({"start_terms": 10}, r"student\.start_terms=10: there are no passages to calibrate on; set it to null"),
    ],
)
def test_bad_settings(make, change, says):
    with pytest.raises(UserError, match=says):
        make(**change)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_bad_weights(make, weights, bad):
    broken = weights.copy()
    broken[7] = bad
    with pytest.raises(UserError, match=r"student\.token_weights: weights must be finite and not negative"):
        make(token_weights=broken)


def test_bad_calibration(make, store):
    for terms in (0, 1e6):
        with pytest.raises(UserError, match=r"student\.start_terms=.*: a number from 1 to below"):
            make(passages=store, start_terms=terms)
    with pytest.raises(UserError, match="no passages to calibrate on"):
        make().calibrate([], 5)
