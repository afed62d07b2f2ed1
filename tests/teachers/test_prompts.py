"""What is cut of a prompt that is too long: the ends of its passages, and nothing else."""

import pytest
from transformers import AutoTokenizer

from retrieval_kd.contracts import UserError
from retrieval_kd.teachers.prompts import PromptTokenizer
from retrieval_kd.teachers.token_rows import shares

DUO = "Query: {query} Document0: {first} Document1: {second} Relevant:"
FRAME = 5  # the template's four words and the end


def text(start, count):
    return " ".join(f"w{i}" for i in range(start, start + count))


@pytest.fixture(scope="module")
def tokenizer(t5):
    return AutoTokenizer.from_pretrained(t5)


def prompts_of(tokenizer, max_length, template=DUO):
    return PromptTokenizer(tokenizer, template, ("query", "first", "second"), max_length, left=False)


def parts(tokenizer, ids):
    """Query, first and second of a prompt, and what follows."""
    words = tokenizer.decode(ids).split()
    a, b, c = (words.index(name) for name in ("Document0:", "Document1:", "Relevant:</s>"))
    return words[1:a], words[a + 1 : b], words[b + 1 : c], words[c:]


def test_what_fits_is_as_the_tokenizer_makes_it(tokenizer):
    (ids,) = (prompts_of(tokenizer, 30)._tokens([["w1"], ["w2 w3"], ["w4"]]),)
    assert ids == [tokenizer(DUO.format(query="w1", first="w2 w3", second="w4"))["input_ids"]]


@pytest.mark.parametrize("sizes", [(20, 20), (20, 2), (2, 20), (9, 30), (30, 9), (1, 1)])
@pytest.mark.parametrize("query", [1, 4])
def test_the_passages_share_what_the_query_leaves(tokenizer, sizes, query):
    limit = 20
    room = limit - FRAME - query
    (ids,) = prompts_of(tokenizer, limit).encode([text(0, query)], [text(5, sizes[0])], [text(6, sizes[1])])[
        "input_ids"
    ]
    found = parts(tokenizer, ids)
    assert found[0] == text(0, query).split()
    kept = shares(sizes, room)
    assert found[1] == text(5, sizes[0]).split()[: kept[0]]
    assert found[2] == text(6, sizes[1]).split()[: kept[1]]
    assert len(found[1]) >= 1
    assert len(found[2]) >= 1
    assert found[3] == ["Relevant:</s>"]
    assert len(ids) <= limit


def test_words_of_several_tokens_are_cut_between_tokens_and_never_too_long(tokenizer):
    for limit in range(16, 40):
        columns = [["w1"], ["abc defgh ijklmno w2 pqr stuvw"], ["w3 xyz abcdefgh hgf w4 edcba"]]
        (ids,) = prompts_of(tokenizer, limit).encode(*columns)["input_ids"]
        assert len(ids) <= limit
        _, first, second, rest = parts(tokenizer, ids)
        assert first
        assert second
        assert columns[1][0].startswith(" ".join(first))
        assert columns[2][0].startswith(" ".join(second))
        assert rest == ["Relevant:</s>"]


def test_both_orders_read_the_same_texts(tokenizer):
    prompts = prompts_of(tokenizer, 21)
    one, other = text(3, 20), text(9, 13)
    forward, backward = prompts.encode(["w1", "w1"], [one, other], [other, one])["input_ids"]
    _, first, second, _ = parts(tokenizer, forward)
    assert parts(tokenizer, backward)[1:3] == (second, first)


def test_neighbours_of_a_long_prompt_are_not_touched(tokenizer):
    prompts = prompts_of(tokenizer, 20)
    rows = prompts.encode(["w1", "w2", "w3"], ["w4", text(5, 30), "w6"], ["w7", "w8", "w9"])["input_ids"]
    assert [rows[0]] == prompts.encode(["w1"], ["w4"], ["w7"])["input_ids"]
    assert [rows[2]] == prompts.encode(["w3"], ["w6"], ["w9"])["input_ids"]
    assert len(rows[1]) == 20


@pytest.mark.parametrize("size", [14, 15, 40])
def test_a_query_that_leaves_no_room_is_cut_to_half_of_it(tokenizer, size):
    prompts = prompts_of(tokenizer, 20)
    columns = [text(0, size), "w30"], ["w1 w2 w3 w4 w5 w6", "w2"], [text(6, 9), "w3"]
    ids, other = prompts.encode(*columns)["input_ids"]
    query, first, second, rest = parts(tokenizer, ids)
    room = 20 - FRAME
    assert query == text(0, room // 2).split()
    assert first == columns[1][0].split()[: shares((6, 9), room - room // 2)[0]]
    assert second == columns[2][0].split()[: shares((6, 9), room - room // 2)[1]]
    assert rest == ["Relevant:</s>"]
    assert prompts.cut == {text(0, size)}
    assert [other] == prompts.encode(["w30"], ["w2"], ["w3"])["input_ids"]


def test_queries_of_several_tokens_a_word_are_cut_between_tokens(tokenizer):
    for limit in range(13, 30):
        query = "abc defgh ijklmno pqr stuvw xyz abcdef"
        (ids,) = prompts_of(tokenizer, limit).encode([query], ["w1 w2 w3"], ["w4 w5 w6"])["input_ids"]
        found, first, second, rest = parts(tokenizer, ids)
        assert len(ids) <= limit
        assert found
        assert query.startswith(" ".join(found))
        assert first
        assert second
        assert rest == ["Relevant:</s>"]


def test_a_template_that_leaves_no_room_is_refused(tokenizer):
    with pytest.raises(UserError, match="max_length=7 leaves no room for a query and a passage") as caught:
        prompts_of(tokenizer, 7).encode(["w0 w1"], ["w1 w2"], ["w3 w4"])
    assert "\n" not in str(caught.value)


def test_cut_queries_are_counted_and_told_again_when_they_are_twice_as_many(tokenizer, caplog):
    prompts = prompts_of(tokenizer, 20)
    for number in range(5):
        prompts.encode([text(number, 30)], ["w1"], ["w2"])
        prompts.tell_cut("judge")
        prompts.tell_cut("judge")
    assert [int(message.split()[1]) for message in caplog.messages] == [1, 2, 4]


def test_fields_in_texts_are_text(tokenizer):
    (ids,) = prompts_of(tokenizer, 60).encode(["{first}"], ["{second}"], ["{query} w1"])["input_ids"]
    assert parts(tokenizer, ids)[:3] == (["{first}"], ["{second}"], ["{query}", "w1"])


def test_shares_are_fair_and_fill_the_room():
    for one in range(0, 12):
        for other in range(0, 12):
            for room in range(2, 16):
                a, b = shares((one, other), room)
                assert a <= one
                assert b <= other
                assert a + b <= room
                assert (b, a) == tuple(shares((other, one), room))
                assert a + b >= min(one + other, room - room % 2)
                assert a >= min(one, room // 2)
    assert shares((9,), 4) == [4]
    assert shares((3,), 4) == [3]
