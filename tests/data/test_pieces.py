import pytest

from retrieval_kd.data.masks import unmarked
from retrieval_kd.data.pieces import Cutter, Pieces, put_together
from retrieval_kd.students.backbone import load_tokenizer

TEXT = "Red bird (sings).  Blue sea! And so on, and on"


@pytest.fixture(scope="module")
def cut(tiny):
    return Cutter(load_tokenizer(tiny), 64)


def words(*texts):
    """Pieces of one word each."""
    found = []
    for text in texts:
        spans, at = [], 0
        for word in text.split(" "):
            spans.append((at, at + len(word)))
            at += len(word) + 1
        found.append(Pieces(text, spans, range(len(spans))))
    return found


def test_pieces_are_the_tokenizers(cut):
    pieces = cut([TEXT, "red"])[0]
    ids = cut.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert len(pieces) == len(ids)
    assert "".join(TEXT[start:end] for start, end in pieces.spans).replace(" ", "") == TEXT.replace(" ", "")
    begun = ["".join(TEXT[pieces.spans[place][0] :].split()[:1]) for place in pieces.words]
    assert begun[:4] == ["Red", "bird", "(sings).", "sings)."]


def test_sentences_begin_at_tokens(cut):
    pieces = cut([TEXT])[0]
    assert [TEXT[pieces.spans[place][0] :][:4] for place in pieces.sentences] == ["Red ", "Blue", "And "]


def test_no_more_tokens_than_the_student_reads(tiny):
    tokenizer = load_tokenizer(tiny)
    short = Cutter(tokenizer, 6)([TEXT])[0]
    assert len(short) == 6 - tokenizer.num_special_tokens_to_add()
    assert put_together(list(range(len(short))), short, short) == TEXT  # what is behind them stays


def test_a_text_of_its_own_pieces_is_itself(cut):
    pieces = cut([TEXT])[0]
    assert put_together(list(range(len(pieces))), pieces, pieces) == TEXT


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([0, 1, 5, 6, 4], "a b B C e"),
        ([5, 1, 2, 3, 4], "B b c d e"),
        ([0, 1, 2, 6, 7], "a b c C D"),
        ([0, 2, 4], "a c e"),
        ([4], "e"),
        ([0, 1, 2, 3, 4, 5], "a b c d e B"),
    ],
)
def test_pieces_of_two_texts(order, expected):
    one, other = words("a b c d e", "X B C D")[0], words("B C D")[0]
    assert put_together(order, one, other) == expected


def test_hiding_keeps_the_text(cut):
    pieces = cut([TEXT])[0]
    text, spans = unmarked(pieces.hiding([0, 2, 3]))
    assert text == TEXT
    assert spans[0] == pieces.spans[0]
    assert cut([]) == []


def test_a_title_leads_and_is_in_no_piece(cut):
    """Here the first two words."""
    title = len("Red bird")
    (pieces,) = cut([TEXT], [title])
    (whole,) = cut([TEXT])
    assert pieces.spans == [span for span in whole.spans if span[1] > title]
    assert put_together(list(range(len(pieces))), pieces, pieces) == TEXT
    assert put_together([], pieces, pieces).startswith("Red bird")
    other = len(pieces) + whole.words[3]  # its fourth word, in place of everything
    assert put_together([other], pieces, whole).startswith("Red bird ")
    assert pieces.hiding([0]).startswith("Red bird ")
