import pytest
import torch

from retrieval_kd.contracts import UserError, WordPairs
from retrieval_kd.teachers import pair_attention
from retrieval_kd.teachers.cross_encoder import CrossEncoder
from retrieval_kd.teachers.pair_attention import PairFrame

QUERIES = ["w1 w2", "w3", "w4 w5 w6", "w9"]
PASSAGES = ["w7 w8 w9 w10", "w11 w1", "w12", ""]


@pytest.fixture(scope="module")
def teacher(tiny):
    return CrossEncoder(tiny, max_length=32)


def pairs_of(teacher, queries=QUERIES, passages=PASSAGES):
    sides = [teacher.tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (queries, passages)]
    widths = [max(map(len, side)) + 1 for side in sides]
    ids = [
        torch.tensor([row + [7] * (width - len(row)) for row in side])  # padding that would be read by mistake
        for side, width in zip(sides, widths, strict=True)
    ]
    lengths = [torch.tensor([len(row) for row in side]) for side in sides]
    return WordPairs(ids[0], lengths[0], ids[1], lengths[1])


def by_hand(teacher, query, passage):
    """The library's own eager attention of the pair as its tokenizer makes it, the last layer's, [H, L, L]."""
    encoded = teacher.tokenizer(query, passage, return_tensors="pt")
    teacher.encoder.set_attn_implementation("eager")
    with torch.no_grad():
        weights = teacher.encoder.eval()(**encoded, output_attentions=True).attentions[-1][0]
    places = encoded.sequence_ids(0)
    return weights, *([at for at, text in enumerate(places) if text == one] for one in (0, 1))


@pytest.mark.parametrize("at_once", [1, 3, 8])
@pytest.mark.parametrize("averaged", [True, False])
def test_it_is_the_last_layers_attention_between_the_texts(teacher, averaged, at_once, monkeypatch):
    monkeypatch.setattr(pair_attention, "AT_ONCE", at_once)
    found = teacher.attention(pairs_of(teacher), averaged)
    heads = 1 if averaged else 2
    assert found.to_passage.shape == (4, heads, 4, 5)
    assert found.to_query.shape == (4, heads, 5, 4)
    for number, (query, passage) in enumerate(zip(QUERIES, PASSAGES, strict=True)):
        weights, left, right = by_hand(teacher, query, passage)
        weights = weights.mean(0, keepdim=True) if averaged else weights
        expected = weights[:, left][:, :, right], weights[:, right][:, :, left]
        for one, other in zip((found.to_passage, found.to_query), expected, strict=True):
            torch.testing.assert_close(one[number, :, : other.shape[1], : other.shape[2]], other, atol=1e-6, rtol=0)
            assert one[number, :, other.shape[1] :].abs().sum() == 0
            assert one[number, :, :, other.shape[2] :].abs().sum() == 0
    assert found.read.tolist() == [4, 2, 1, 0]
    assert (found.to_passage.sum(-1) < 1).all()  # the rest lies on special tokens and the query itself


def test_a_passage_that_does_not_fit_loses_its_end(tiny):
    teacher = CrossEncoder(tiny, max_length=8)
    found = teacher.attention(pairs_of(teacher), averaged=True)
    assert found.read.tolist() == [3, 2, 1, 0]  # of 8, two words of the query and three special tokens
    weights, left, right = by_hand(teacher, QUERIES[0], "w7 w8 w9")
    expected = weights.mean(0)[left][:, right]
    torch.testing.assert_close(found.to_passage[0, 0, :2, :3], expected, atol=1e-6, rtol=0)
    assert found.to_passage[0, 0, :, 3:].abs().sum() == 0


def test_a_query_that_leaves_no_room(tiny):
    with pytest.raises(UserError, match=r"a query of 3 tokens leaves no room .* max_length=6"):
        CrossEncoder(tiny, max_length=6).attention(pairs_of(CrossEncoder(tiny, max_length=8)), averaged=True)


def test_it_leaves_mode_and_implementation_as_they_were(teacher):
    implementation = teacher.encoder.config._attn_implementation
    teacher.encoder.set_attn_implementation("sdpa")
    for mode in (True, False):
        teacher.encoder.train(mode)
        one, other = (teacher.attention(pairs_of(teacher), averaged=True).to_passage for _ in range(2))
        assert torch.equal(one, other)  # without dropout
        assert teacher.encoder.training == mode
        assert teacher.encoder.config._attn_implementation == "sdpa"
        assert not one.requires_grad
    teacher.encoder.set_attn_implementation(implementation)


def test_the_frame_is_what_the_tokenizer_puts_around_a_pair(teacher):
    frame = PairFrame.of(teacher.tokenizer)
    encoded = teacher.tokenizer(QUERIES[0], PASSAGES[0])
    sides = [teacher.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (QUERIES[0], PASSAGES[0])]
    assert frame.row(*sides) == (encoded["input_ids"], encoded["token_type_ids"])
    assert frame.size == 3


def test_texts_in_a_template_have_other_words(tiny):
    teacher = CrossEncoder(tiny, max_length=32, templates=("w1 {query}", "{passage}"))
    with pytest.raises(UserError, match=r"teacher\.templates"):
        teacher.attention(pairs_of(teacher), averaged=True)


@pytest.mark.parametrize("at_once", [1, 3, 8])
def test_features_are_the_last_state_of_the_first_token(teacher, at_once, monkeypatch):
    monkeypatch.setattr(pair_attention, "AT_ONCE", at_once)
    teacher.encoder.train()
    found = teacher.features(pairs_of(teacher))
    assert teacher.encoder.training
    teacher.encoder.eval()
    for number, (query, passage) in enumerate(
        zip(QUERIES[:3], PASSAGES[:3], strict=True)
    ):  # the library takes an empty text for none
        with torch.no_grad():
            encoded = teacher.tokenizer(query, passage, return_tensors="pt")
            expected = teacher.encoder.bert(**encoded).last_hidden_state[0, 0]
        torch.testing.assert_close(found[number], expected, atol=1e-5, rtol=0)
    assert not found.requires_grad
    nothing = [torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)] * 2
    assert teacher.features(WordPairs(*nothing)).shape == (0, 32)
