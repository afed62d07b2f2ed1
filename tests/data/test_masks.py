import pytest

from retrieval_kd.contracts import Side, UserError
from retrieval_kd.data.masks import CLOSE, OPEN, Masker, has_masks, marked, ordinary, unmarked, without_hidden
from retrieval_kd.data.tokenize import SideSettings, TextTokenizer
from retrieval_kd.students.backbone import load_tokenizer

TEXT = "red bird sings"


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(tiny)


@pytest.mark.parametrize(
    ("spans", "joined"),
    [
        ([], []),
        ([(0, 3)], [(0, 3)]),
        ([(0, 3), (4, 8)], [(0, 3), (4, 8)]),
        ([(4, 6), (6, 8), (9, 14)], [(4, 8), (9, 14)]),
    ],
)
def test_hidden_parts_come_back(spans, joined):
    text = marked(TEXT, spans)
    assert unmarked(text) == (TEXT, joined)
    assert has_masks(text) == bool(spans)


def test_a_text_cut_within_a_hidden_part():
    text = marked(TEXT, [(0, 3), (4, 8)])
    assert unmarked(text[:9]) == ("red bi", [(0, 3), (4, 6)])
    assert unmarked(text[: text.rindex(OPEN) + 1]) == ("red ", [(0, 3)])


def test_what_counts_words_does_not_see_hidden_ones():
    assert without_hidden(marked(TEXT, [(4, 8)])).split() == ["red", "sings"]
    assert without_hidden(TEXT) is TEXT


def test_nobodys_text_hides_anything():
    assert ordinary(f"a{OPEN}b{CLOSE}") == "a\ufffdb\ufffd"
    assert ordinary(TEXT) is TEXT


def encode(tokenizer, texts, length=16, prompt=""):
    sides = SideSettings(prompt, length), SideSettings(prompt, length)
    return TextTokenizer(tokenizer, *sides).ids(texts, Side.PASSAGE)


def test_hidden_tokens_become_the_mask_and_others_stay(tokenizer):
    plain, hidden, other = encode(tokenizer, [TEXT, marked(TEXT, [(4, 8)]), "red [MASK] sings"])
    assert len(hidden) == len(plain)
    places = [place for place, token in enumerate(hidden) if token == tokenizer.mask_token_id]
    assert [token for place, token in enumerate(hidden) if place not in places] == [
        token for place, token in enumerate(plain) if place not in places
    ]
    assert tokenizer.decode([plain[place] for place in places]).replace(" ", "").replace("##", "") == "bird"
    assert tokenizer.mask_token_id not in other


def test_hiding_one_piece_of_a_word_keeps_the_other(tokenizer):
    word = next(word for word in ("singing", "birds", "reddish", "zxqy") if len(encode(tokenizer, [word])[0]) > 3)
    (plain,), (hidden,) = encode(tokenizer, [word]), encode(tokenizer, [marked(word, [(0, 1)])])
    assert hidden[1] == tokenizer.mask_token_id
    assert hidden[2:] == plain[2:]


@pytest.mark.parametrize("prompt", ["", "find red "])
@pytest.mark.parametrize("length", [4, 5, 16])
def test_prompt_and_length_are_those_of_any_text(tokenizer, prompt, length):
    plain, hidden = encode(tokenizer, [TEXT, marked(TEXT, [(4, 14)])], length, prompt)
    assert len(hidden) == len(plain) <= length
    shown = [token for token in hidden if token != tokenizer.mask_token_id]
    assert shown[:-1] == plain[: len(shown) - 1]


def test_queries_hide_nothing(tokenizer):
    sides = SideSettings("", 16), SideSettings("", 16)
    assert tokenizer.mask_token_id not in TextTokenizer(tokenizer, *sides).ids([marked(TEXT, [(0, 3)])], Side.QUERY)[0]


def test_a_tokenizer_without_a_mask(tokenizer):
    class Without:
        mask_token_id, name_or_path = None, "t5"

    with pytest.raises(UserError, match=r"t5 has no mask token.*masked\.variant=delete"):
        _ = Masker(Without()).mask
