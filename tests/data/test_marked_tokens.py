import numpy as np
import pytest
from late_case import LATE_SIDES, MARKERS, TEXTS, make_marked
from transformers import AddedToken, AutoTokenizer

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.marked_tokens import MarkedTokenizer, Marking, add_markers, skipped_ids
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    return make_marked(tiny, tmp_path_factory.mktemp("marked"))


@pytest.fixture
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def sides(**changes):
    return [SideSettings(**LATE_SIDES[side] | changes) for side in ("query", "passage")]


def marked(tokenizer, augment=True, attend_to_mask=False, markers=MARKERS, **changes):
    return MarkedTokenizer(
        tokenizer, *sides(**changes), Marking(markers["query"], markers["passage"], augment, attend_to_mask)
    )


def one_group(marking, texts, side):
    return marking.groups(texts, side, lambda lengths: [(0, len(lengths))])


def test_markers_stand_behind_the_first_token_and_count_for_the_length(tokenizer):
    plain = TextTokenizer(tokenizer, *(SideSettings("", LATE_SIDES[side.value]["max_length"] - 1) for side in Side))
    for side in Side:
        marker = tokenizer.convert_tokens_to_ids(MARKERS[side.value])
        rows = marked(tokenizer, augment=False).ids(TEXTS, side)
        assert rows == [[row[0], marker, *row[1:]] for row in plain.ids(TEXTS, side)]
        assert max(map(len, rows)) == LATE_SIDES[side.value]["max_length"]
        assert all(row.count(marker) == 1 for row in rows)  # whatever the text spells


def test_queries_are_filled_up_with_masks_that_nobody_sees(tokenizer):
    texts = ["red bird", "", "?! ...", "the city " * 40]
    maker = marked(tokenizer)
    bare = marked(tokenizer, augment=False).ids(texts, Side.QUERY)
    tokens = one_group(maker, texts, Side.QUERY)
    group = tokens.groups[0]
    for row, text in enumerate(tokens.order.tolist()):
        length = len(bare[text])
        assert group.input_ids[row].tolist() == bare[text] + [tokenizer.mask_token_id] * (12 - length)
        assert group.attention_mask[row].tolist() == [1] * length + [0] * (12 - length)
    assert maker.scored(group, Side.QUERY).all()
    seen = one_group(marked(tokenizer, attend_to_mask=True), texts, Side.QUERY).groups[0]
    assert seen.attention_mask.all()
    assert seen.input_ids.equal(group.input_ids)


def test_without_augmentation_padding_is_not_scored(tokenizer):
    maker = marked(tokenizer, augment=False)
    for side in Side:
        group = one_group(maker, TEXTS, side).groups[0]
        assert maker.scored(group, side).equal(group.attention_mask.bool())
        assert not group.attention_mask.all()


def test_passages_are_not_filled_up(tokenizer):
    maker = marked(tokenizer)
    assert maker.ids(["red bird"], Side.PASSAGE) == marked(tokenizer, augment=False).ids(["red bird"], Side.PASSAGE)
    group = one_group(maker, TEXTS, Side.PASSAGE).groups[0]
    assert maker.scored(group, Side.PASSAGE).equal(group.attention_mask.bool())


def test_prompts_come_behind_the_marker(tokenizer):
    row = marked(tokenizer, augment=False, prompt="find ").ids(["red"], Side.QUERY)[0]
    assert tokenizer.convert_ids_to_tokens(row)[:3] == ["[CLS]", "[unused0]", "f"]


@pytest.mark.parametrize("special", [True, False])
def test_markers_that_the_tokenizer_finds_in_texts_are_not_found_any_more(tokenizer, special):
    before = marked(tokenizer).ids(TEXTS, Side.PASSAGE)
    tokenizer.add_tokens([AddedToken(marker, special=special, normalized=False) for marker in MARKERS.values()])
    assert marked(tokenizer).ids(TEXTS, Side.PASSAGE) == before


def test_new_markers_are_added_once(tokenizer):
    size = len(tokenizer)
    assert add_markers(tokenizer, ["[Q] ", "[D] ", "", "[unused0]"]) == [size, size + 1]
    assert add_markers(tokenizer, ["[Q] ", "[D] "]) == []
    maker = marked(tokenizer, augment=False, markers={"query": "[Q] ", "passage": "[D] "})
    assert maker.ids(["[Q] red [D] bird"], Side.QUERY)[0].count(size) == 1
    assert size + 1 not in maker.ids(["[Q] red [D] bird"], Side.QUERY)[0]


def test_no_marker_at_all(tokenizer):
    maker = marked(tokenizer, augment=False, markers={"query": "", "passage": ""})
    plain = TextTokenizer(tokenizer, *sides())
    for side in Side:
        assert maker.ids(TEXTS, side) == plain.ids(TEXTS, side)


def test_words_that_are_no_token_are_not_skipped(tokenizer):
    found = skipped_ids(tokenizer, [".", "\u2026", "?"])
    assert found == {word: tokenizer.convert_tokens_to_ids(word) for word in (".", "?")}


def test_bad_input(tokenizer, tiny):
    with pytest.raises(
        UserError, match=r"student\.markers\.query=\[unused0\]: .* has no such token; student\.add_mark"
    ):
        marked(AutoTokenizer.from_pretrained(tiny))
    tokenizer.mask_token = None
    with pytest.raises(UserError, match=r"student\.augment=true: the tokenizer has no mask token"):
        marked(tokenizer)
    assert len(np.unique([len(row) for row in marked(tokenizer, augment=False).ids(TEXTS, Side.QUERY)])) > 1
