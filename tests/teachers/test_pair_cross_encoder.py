import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from training_case import make_trainer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.data.length_groups import plan_groups
from retrieval_kd.teachers.adamw import LinearAdamW
from retrieval_kd.teachers.pair_cross_encoder import PairCrossEncoder
from retrieval_kd.teachers.pair_training import DrawnTriples, TripleCollator, WorthList, triple_loader
from retrieval_kd.teachers.triple_tokens import TripleTokenizer

QUERIES = ["w1 w2", "w3", "w4 w5 w6", "w7"]
FIRSTS = ["w8 w9 w10 w11 w12", "w13", "w14 w15 w16", "w17 w18 w19 w20 w21 w22 w23"]
SECONDS = ["w9", "w30 w31 w32 w33 w34 w35", "w14 w16", "w2"]


@pytest.fixture(scope="module")
def encoder(tiny):
    return PairCrossEncoder(tiny, max_length=40, tokens_per_batch=60)


def text(start, count):
    return " ".join(f"w{i}" for i in range(start, start + count))


def test_it_reads_the_query_and_both_passages_in_their_order(encoder, tiny):
    """Each row by itself, written down by hand, by the library alone."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    expected = []
    for q, i, j in zip(QUERIES, FIRSTS, SECONDS, strict=True):
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (q, i, j)]
        ids = [2, *parts[0], 3, *parts[1], 3, *parts[2], 3]
        kinds = [0] * (len(parts[0]) + len(parts[1]) + 3) + [1] * (len(parts[2]) + 1)
        with torch.no_grad():
            expected.append(model(torch.tensor([ids]), token_type_ids=torch.tensor([kinds])).logits[0, 0].item())
    found = encoder.score(QUERIES, FIRSTS, SECONDS)
    assert found.dtype == np.float32
    assert encoder.kind is ScoreKind.LOG_ODDS
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - encoder.score(QUERIES, SECONDS, FIRSTS)).max() > 1e-3
    assert encoder.score([], [], []).shape == (0,)


@pytest.mark.parametrize("sizes", [(20, 20), (20, 2), (2, 20), (3, 3)])
def test_long_passages_share_the_room_and_the_query_stays(encoder, sizes):
    reader = TripleTokenizer(encoder.tokenizer, 20)
    (ids,) = reader.encode([text(0, 4)], [text(5, sizes[0])], [text(6, sizes[1])])["input_ids"]
    query, first, second = " ".join(encoder.tokenizer.convert_ids_to_tokens(ids)[1:-1]).split(" [SEP] ")
    assert len(ids) <= 20
    assert query == text(0, 4)
    half = (20 - 4 - 4) // 2
    assert len(first.split()) == min(sizes[0], max(half, 12 - sizes[1]))
    assert len(second.split()) == min(sizes[1], max(half, 12 - sizes[0]))
    assert text(5, sizes[0]).startswith(first)
    assert text(6, sizes[1]).startswith(second)


@pytest.mark.parametrize("size", [15, 16, 40])
def test_a_query_without_room_for_two_passages_is_cut_to_half_of_it(encoder, size):
    reader = TripleTokenizer(encoder.tokenizer, 20)
    rows = reader.encode([text(0, size), "w1"], [text(5, 9), "w2"], [text(6, 9), "w3"])["input_ids"]
    query, first, second = " ".join(encoder.tokenizer.convert_ids_to_tokens(rows[0])[1:-1]).split(" [SEP] ")
    assert query == text(0, 8)
    assert (first, second) == (text(5, 4), text(6, 4))
    assert reader.cut == {text(0, size)}
    assert [rows[1]] == reader.encode(["w1"], ["w2"], ["w3"])["input_ids"]


def test_a_length_without_room_for_a_query_is_refused(encoder):
    with pytest.raises(UserError, match=r"teacher\.judge\.max_length=7 leaves no room for a query and two passages"):
        TripleTokenizer(encoder.tokenizer, 7).encode(["w0 w1"], ["w1"], ["w2"])


def test_a_judge_says_how_many_queries_it_cut(encoder, caplog):
    encoder.score([text(0, 40)] * 2 + ["w1"], ["w1", "w2", "w3"], ["w4"] * 3)
    (told,) = [message for message in caplog.messages if "were cut" in message]
    assert "1 queries left no room" in told


def test_special_tokens_in_text_are_text(encoder):
    (ids,) = encoder.pairs.encode(["w1 [SEP]"], ["[CLS] w2"], ["w3"])["input_ids"]
    assert [token for token in ids if token in (2, 3)] == [2, 3, 3, 3]


def test_a_tokenizer_without_segments_has_none(gpt):
    reader = TripleTokenizer(AutoTokenizer.from_pretrained(gpt), 60)
    columns = reader.encode(["ab"], ["c"], ["de"])
    assert list(columns) == ["input_ids"]
    assert reader.tokenizer.decode(columns["input_ids"][0]) == "abcde"


def test_fingerprints_name_weights_and_length(encoder, tiny):
    assert PairCrossEncoder(tiny, max_length=40).fingerprint == encoder.fingerprint
    assert PairCrossEncoder(tiny, max_length=41).fingerprint != encoder.fingerprint


def test_without_a_head_it_does_not_judge(checkpoint):
    with pytest.raises(UserError, match="no trained classification head"):
        PairCrossEncoder(checkpoint(0), max_length=32)


LISTS = [WorthList(f"q{n}", f"w{n}", [f"w{10 + n}", "w30", "w31", "w32"], np.array([1.0, 0, 0, 0])) for n in range(8)]


def test_triples_are_drawn_by_seed_epoch_and_query_in_either_order():
    drawn = DrawnTriples(LISTS, 3, seed=1, temperature=None)
    again = DrawnTriples(LISTS[3:], 3, seed=1, temperature=None)
    assert drawn[2, 5] == again[2, 2]
    assert drawn[2, 5] != drawn[3, 5] or drawn[4, 5] != drawn[3, 5]
    triples = [triple for epoch in range(20) for number in range(8) for triple in drawn[epoch, number]]
    assert len(triples) == 20 * 8 * 3
    for triple in triples:
        better = triple.first if triple.preferred else triple.second
        assert better == f"w{10 + int(triple.query[1:])}"
        assert triple.preferred in (0.0, 1.0)
    assert 0.4 < np.mean([triple.preferred for triple in triples]) < 0.6


def test_scores_give_soft_preferences_and_unknown_worth_is_left_out():
    worth = np.array([0.3, np.nan, 0.1, 0.1])
    (triples,) = [DrawnTriples([WorthList("q", "w1", list("abcd"), worth)], 9, 0, 0.2)[0, 0]]
    assert {frozenset((one.first, one.second)) for one in triples} == {frozenset("ac"), frozenset("ad")}
    for one in triples:
        gap = 1 if one.first == "a" else -1
        assert one.preferred == pytest.approx(1 / (1 + np.exp(-gap * 0.2 / 0.2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": 0}, r"train\.pairs=0"),
        ({"temperature": 0.0}, r"train\.temperature=0"),
        ({"lists": [WorthList("q", "w", ["a", "b"], np.zeros(2))]}, "none of the 1 lists"),
    ],
)
def test_what_teaches_nothing_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        DrawnTriples(**{"lists": LISTS, "pairs": 2, "seed": 0, "temperature": None} | settings)


@pytest.mark.slow
def test_training_learns_preferences_and_the_folder_judges_the_same(checkpoint, tmp_path):
    pl.seed_everything(1, verbose=False)
    judge = PairCrossEncoder(checkpoint(0), max_length=20, optimizer=LinearAdamW(2e-3, 0.0, 0.1))
    collate = TripleCollator(judge.pairs, lambda lengths: plan_groups(lengths, 16))
    loader = triple_loader(DrawnTriples(LISTS, 3, 0, None), collate, 8)
    make_trainer(max_epochs=60).fit(judge, loader)
    queries, better = [item.query for item in LISTS], [item.passages[0] for item in LISTS]
    found = judge.score(queries, better, ["w30"] * 8)
    assert (found > 1).all()
    assert (judge.score(queries, ["w30"] * 8, better) < -1).all()
    judge.save(tmp_path / "judge")
    again = PairCrossEncoder(str(tmp_path / "judge"), max_length=20)
    np.testing.assert_allclose(again.score(queries, better, ["w30"] * 8), found, atol=1e-5)
    assert again.fingerprint == judge.fingerprint


def test_a_judge_that_is_not_to_be_trained_is_not(encoder):
    with pytest.raises(UserError, match="optimizer: absent"):
        encoder.configure_optimizers()
