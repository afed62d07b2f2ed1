import numpy as np
import pytest

from retrieval_kd.contracts import Passage, Role, UserError
from retrieval_kd.data.candidates import Candidate, Candidates
from retrieval_kd.data.masks import has_masks, unmarked
from retrieval_kd.data.passages import PassageStore
from retrieval_kd.data.weights import TINY_WORDS
from retrieval_kd.negatives.dark import DarkPassages, DarkStatistics, outside_band, with_made
from retrieval_kd.students.backbone import load_tokenizer

WORDS = TINY_WORDS.split()
SPAN = {"count": 3, "variant": "span", "share": [0.1, 0.5]}
MASK = {"count": 3, "variant": "mask", "share": [0.3, 0.7]}


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return load_tokenizer(tiny)


@pytest.fixture(scope="module")
def passages(tmp_path_factory):
    """Twenty passages; p18 is of one word, p19 of two sentences and the rest of three."""
    generator = np.random.default_rng(0)
    texts = [" ".join(" ".join(generator.choice(WORDS, 5)) + "." for _ in range(3)) for _ in range(18)] + ["red"]
    texts.append("Red bird sings. Blue sea")
    rows = (Passage(f"p{row}", "", text) for row, text in enumerate(texts))
    return PassageStore.build(tmp_path_factory.mktemp("dark") / "passages", rows)


def make_lists(queries=4):
    """The positive, five hard ones by rank, a random one; the last query has two positives, q-none has none."""
    lists = []
    for query in range(queries):
        rows = [Candidate(f"p{query}", Role.POSITIVE, 0, "judgements", 2, 1)]
        rows += [Candidate("p17", Role.PSEUDO_POSITIVE, 0, "label", 2, 0)] if query == queries - 1 else []
        rows += [Candidate(f"p{query + rank + 4}", Role.HARD, rank, "bm25", 2, 0) for rank in range(1, 6)]
        lists.append((f"q{query}", [*rows, Candidate("p16", Role.RANDOM, 0, "random", 2, 0)]))
    lists.append(("q-none", [Candidate("p5", Role.HARD, 1, "bm25", 2, 0)]))
    return Candidates.from_lists(lists)


def make(tokenizer, passages, candidates=None, **settings):
    settings = {
        "reinforced": SPAN,
        "masked": MASK,
        "max_length": 64,
        "band": False,
        "per_query": 4,
        "seed": 1,
    } | settings
    statistics = DarkStatistics()
    dark = DarkPassages(**settings, tokenizer=tokenizer)
    made = list(dark.make(candidates or make_lists(), passages, statistics))
    return {one.query_id: own for one, own in made}, statistics


def text_of(passages, name):
    return passages.texts(passages.rows([name]))[0]


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_roles_and_origins(tokenizer, passages):
    made, statistics = make(tokenizer, passages)
    for query in range(4):
        own = made[f"q{query}"]
        reinforced, masked = own[:3], own[3:]
        assert [one.role for one in own] == [Role.DARK_REINFORCED] * 3 + [Role.DARK_MASKED] * 3
        assert [one.base for one in reinforced] == [f"p{query + rank + 4}" for rank in (1, 2, 3)]  # the best ranks
        targets = {f"p{query}", "p17"} if query == 3 else {f"p{query}"}
        assert {one.positive for one in own} <= targets
        assert all(one.base == one.positive for one in masked)
        assert all(0.1 <= one.share <= 0.5 for one in reinforced)
        assert all(0.3 <= one.share <= 0.7 for one in masked)
        assert all(has_masks(one.text) for one in masked)
        assert not any(has_masks(one.text) for one in reinforced)
    assert made["q-none"] == []
    assert (statistics.reinforced, statistics.masked, statistics.without_positive, statistics.queries) == (12, 12, 1, 5)


def test_lengths_are_kept_and_shares_met(tokenizer, passages):
    made, _ = make(tokenizer, passages)
    for own in made.values():
        for one in own:
            base = ids(tokenizer, text_of(passages, one.base))
            if one.role == Role.DARK_MASKED:
                text, spans = unmarked(one.text)
                assert text == text_of(passages, one.base)
                offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
                hidden = [o for o in offsets if any(o[0] < end and start < o[1] for start, end in spans)]
                assert len(hidden) == int(one.share * len(base))
                continue
            tokens = ids(tokenizer, one.text)
            assert len(tokens) == len(base)
            same_start = next(place for place, (x, y) in enumerate(zip(tokens, base, strict=True)) if x != y)
            positive = " ".join(map(str, ids(tokenizer, text_of(passages, one.positive))))
            size = max(1, int(one.share * len(base)))
            window = [tokens[at : at + size] for at in range(max(0, same_start - size), same_start + 1)]
            assert any(" ".join(map(str, some)) in positive for some in window)


@pytest.mark.parametrize("variant", ["span", "append", "words", "sentences"])
@pytest.mark.parametrize("weakened", ["mask", "delete"])
def test_the_same_seed_makes_the_same_bytes(tokenizer, passages, variant, weakened):
    settings = {"reinforced": SPAN | {"variant": variant}, "masked": MASK | {"variant": weakened}}
    one, again = (make(tokenizer, passages, **settings)[0] for _ in range(2))
    assert one == again
    other, _ = make(tokenizer, passages, **settings, seed=2)
    assert {made.text for own in one.values() for made in own} != {made.text for own in other.values() for made in own}
    alone = make_lists().keep(np.isin(make_lists().row_query_ids(), ["q2"]))
    assert make(tokenizer, passages, alone, **settings)[0]["q2"] == one["q2"]  # of nothing but seed and query


def test_a_share_of_nothing_makes_nothing(tokenizer, passages):
    """A negative without a span of the positive is the negative, a positive without masks the positive."""
    nothing = {"reinforced": SPAN | {"share": [0, 0]}, "masked": MASK | {"share": [0, 0]}}
    made, statistics = make(tokenizer, passages, **nothing)
    assert not any(made.values())
    assert statistics.unchanged == 24


def test_what_is_too_short_is_counted_and_left_out(tokenizer, passages):
    lists = Candidates.from_lists(
        [("q", [Candidate("p18", Role.POSITIVE, 0, "judgements", 0, 1), Candidate("p1", Role.HARD, 1, "bm25", 0, 0)])]
    )
    made, statistics = make(tokenizer, passages, lists)
    assert [one.role for one in made["q"]] == [Role.DARK_REINFORCED]
    assert "red" in made["q"][0].text.split()
    assert statistics.unchanged == 3
    assert "3 too short to be changed" in statistics.lines()[1]


def test_equal_texts_are_made_once(tokenizer, passages):
    lists = make_lists(1)
    made, statistics = make(tokenizer, passages, lists, masked=MASK | {"count": 60, "share": [0.05, 0.07]})
    masked = [one for one in made["q0"] if one.role == Role.DARK_MASKED]
    assert len({one.passage_id for one in made["q0"]}) == len(made["q0"])
    assert len(masked) + statistics.repeated + statistics.unchanged == 60
    assert statistics.repeated > 0


def test_sentences_change_places_whole(tokenizer, passages):
    made, _ = make(tokenizer, passages, reinforced=SPAN | {"variant": "sentences"})
    for own in made.values():
        for one in own:
            if one.role == Role.DARK_REINFORCED:
                base, positive, parts = (
                    [part.strip() for part in text.split(".") if part.strip()]
                    for text in (text_of(passages, one.base), text_of(passages, one.positive), one.text)
                )
                assert sum(part in base for part in parts) == 2
                assert sum(part in positive for part in parts) == 1


def test_appended_spans_stand_behind(tokenizer, passages):
    made, _ = make(tokenizer, passages, reinforced=SPAN | {"variant": "append"})
    for one in made["q1"][:3]:
        base = ids(tokenizer, text_of(passages, one.base))
        size = max(1, int(one.share * len(base)))
        assert ids(tokenizer, one.text)[: len(base) - size] == base[: len(base) - size]


def test_only_what_the_student_reads_takes_part(tokenizer, passages):
    made, _ = make(tokenizer, passages, max_length=8)
    length = 8 - tokenizer.num_special_tokens_to_add()
    for own in made.values():
        for one in own:
            base = text_of(passages, one.base)
            if one.role == Role.DARK_MASKED:
                _, spans = unmarked(one.text)
                offsets = tokenizer(base, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
                assert spans[-1][1] <= offsets[length - 1][1]
            else:
                assert ids(tokenizer, one.text)[length:] == ids(tokenizer, base)[length:]


def test_made_passages_are_candidates_behind_the_others(tokenizer, passages):
    candidates = make_lists()
    made, _ = make(tokenizer, passages, candidates)
    for one in candidates.lists():
        rows = with_made(one, made[one.query_id])
        assert rows[: len(one.passage_ids)] == one.candidates()
        for row, each in zip(rows[len(one.passage_ids) :], made[one.query_id], strict=True):
            assert (row.passage_id, row.role, row.rank, row.round, row.relevance) == (
                each.passage_id,
                each.role,
                0,
                2,
                0,
            )
            assert row.passage_id.startswith("dark:")


def test_the_band_lies_between_the_best_negative_and_the_positive():
    roles = [Role.POSITIVE, Role.HARD, Role.HARD, *[Role.DARK_MASKED, Role.DARK_REINFORCED] * 3]
    rows = [Candidate(f"p{place}", role, 0, "", 0, 0) for place, role in enumerate(roles)]
    candidates = Candidates.from_lists([("q1", rows), ("q2", [replace_id(row) for row in rows])])
    first = [5.0, 1.0, 2.0, 2.0, 5.0, 1.9, 5.1, np.nan, 3.0]
    second = [np.nan, np.nan, np.nan, 9.0, -9.0, 0.0, 0.0, 0.0, 0.0]
    statistics = DarkStatistics()
    outside = outside_band(candidates, np.array(first + second, np.float32), statistics)
    assert np.flatnonzero(outside).tolist() == [5, 6]
    assert (statistics.below, statistics.above) == (1, 1)
    assert (statistics.reinforced, statistics.masked) == (5, 5)


def replace_id(row):
    return row._replace(passage_id=f"other-{row.passage_id}")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"reinforced": SPAN | {"variant": "mix"}}, r"made\.reinforced\.variant is span or .* sentences, not mix"),
        ({"masked": MASK | {"share": [0.7, 0.3]}}, r"made\.masked\.share: \[least, most\]"),
        ({"masked": MASK | {"share": 0.3}}, r"made\.masked\.share: \[least, most\]"),
        ({"masked": MASK | {"count": -1}}, r"made\.masked\.count must be at least 0"),
        ({"masked": MASK | {"rate": 1}}, r"made\.masked has count, variant, share, not"),
        ({"masked": MASK | {"count": 0}, "reinforced": SPAN | {"count": 0}}, r"both counts are 0.*negatives=hard"),
        ({"per_query": 0}, r"made\.per_query must be at least 1"),
    ],
)
def test_bad_settings(settings, says):
    plain = {"reinforced": SPAN, "masked": MASK, "max_length": 8, "band": False, "per_query": 1, "seed": 1}
    with pytest.raises(UserError, match=says):
        DarkPassages(**plain | settings, tokenizer=None)


def test_a_tokenizer_without_a_mask_token(tokenizer, passages):
    class Without:
        mask_token_id, name_or_path = None, "some-tokenizer"

        def num_special_tokens_to_add(self):
            return 2

    with pytest.raises(UserError, match=r"some-tokenizer has no mask token.*masked\.variant=delete"):
        make(Without(), passages)
    DarkPassages(SPAN, MASK | {"variant": "delete"}, 8, False, 1, 1, Without())


@pytest.mark.parametrize("variant", ["span", "append", "words", "sentences"])
@pytest.mark.parametrize("weakened", ["mask", "delete"])
def test_titles_stay_and_go_nowhere_else(tokenizer, passages, variant, weakened):
    """Here the first three words of each passage; p18 is all title."""
    lists = make_lists()
    titles = {name: " ".join(text_of(passages, name).split()[:3]) for name in set(lists.passage_ids) | {"p18"}}
    settings = {"reinforced": SPAN | {"variant": variant}, "masked": MASK | {"variant": weakened}}
    dark = DarkPassages(**settings, max_length=64, band=False, per_query=4, seed=1, tokenizer=tokenizer)
    made = [one for _, own in dark.make(lists, passages, DarkStatistics(), titles) for one in own]
    assert len(made) > 12
    for one in made:
        text, spans = unmarked(one.text)
        assert text.startswith(titles[one.base])
        assert all(start >= len(titles[one.base]) for start, _ in spans)
        if one.role == Role.DARK_REINFORCED:
            assert titles[one.positive] not in text
    alone = [("q", [Candidate("p18", Role.POSITIVE, 0, "judgements", 0, 1)])]
    statistics = DarkStatistics()
    ((_, own),) = dark.make(Candidates.from_lists(alone), passages, statistics, titles)
    assert (own, statistics.unchanged) == ([], 3)
