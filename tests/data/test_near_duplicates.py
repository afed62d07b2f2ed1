import numpy as np
import pytest

from retrieval_kd.data.near_duplicates import joined_groups, near_duplicate_groups, splits_of_groups

rng = np.random.default_rng(0)
WORDS = [f"w{number}" for number in range(3000)]


def text(length=60):
    return [WORDS[number] for number in rng.integers(0, len(WORDS), length)]


def shingles(words, size=3):
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def jaccard(left, right):
    left, right = shingles(left), shingles(right)
    return len(left & right) / len(left | right)


@pytest.fixture(scope="module")
def corpus():
    """600 texts, half of them edits of earlier ones, from one word changed to most of them."""
    texts = [text() for _ in range(300)]
    for number in range(300):
        copy = list(texts[number])
        for place in rng.choice(60, int(rng.integers(1, 30)), replace=False):
            copy[place] = WORDS[int(rng.integers(len(WORDS)))]
        texts.append(copy)
    return texts


def test_groups_follow_exact_jaccard(corpus):
    groups = near_duplicate_groups([" ".join(words) for words in corpus], threshold=0.5)
    close = far = 0
    for number in range(300):
        same, similarity = groups[number] == groups[300 + number], jaccard(corpus[number], corpus[300 + number])
        # 126 hashes estimate within .045 (one standard error), so the band around the threshold is not judged.
        if similarity >= 0.65:
            assert same
            close += 1
        if similarity <= 0.35:
            assert not same
            far += 1
    assert close > 30
    assert far > 30
    assert len(set(groups[:300].tolist())) == 300  # unrelated texts stay apart


def test_groups_are_their_first_rows_and_do_not_depend_on_the_order(corpus):
    texts = [" ".join(words) for words in corpus]
    groups = near_duplicate_groups(texts)
    assert (groups <= np.arange(len(texts))).all()
    assert (groups[groups] == groups).all()
    order = rng.permutation(len(texts))
    shuffled = near_duplicate_groups([texts[row] for row in order])
    together = {frozenset(np.flatnonzero(groups == group).tolist()) for group in set(groups.tolist())}
    again = {frozenset(order[shuffled == group].tolist()) for group in set(shuffled.tolist())}
    assert together == again


def test_chains_connect():
    base = text(100)
    middle = [*base[20:], *text(20)]
    last = [*middle[20:], *text(20)]
    assert jaccard(base, last) < 0.5 < jaccard(base, middle)
    groups = near_duplicate_groups([" ".join(words) for words in (last, base, middle)])
    assert groups.tolist() == [0, 0, 0]


def test_case_and_punctuation_do_not_count_and_short_texts_work():
    assert near_duplicate_groups(["One", "two words", "ONE!", "Two, words", "", "  ", "..."]).tolist() == [
        *(0, 1, 0, 1),
        *(4, 5, 6),
    ]
    assert near_duplicate_groups([]).shape == (0,)


def test_many_copies_are_one_group():
    copies = [" ".join(words) for words in [text()] * 3000]
    assert set(near_duplicate_groups([*copies, "another text entirely, not a copy"]).tolist()) == {0, 3000}


def test_joined_groups_are_connected_components():
    left = np.array([0, 0, 2, 3, 4])
    right = np.array([0, 1, 1, 3, 3])
    assert joined_groups(left, right).tolist() == [0, 0, 0, 3, 3]
    assert joined_groups(left).tolist() == left.tolist()


def test_splits_of_groups_keep_groups_together_and_shares():
    texts = [f"text {number}" for number in range(9000)]
    groups = np.arange(9000) // 3 * 3
    splits = splits_of_groups(groups, texts, {"test": 0.2, "dev": 0.1}, rest="train")
    assert all(len(set(splits[row : row + 3])) == 1 for row in range(0, 9000, 3))
    # 3,000 groups: the standard errors are .0073 and .0055.
    assert splits.count("test") / 9000 == pytest.approx(0.2, abs=0.03)
    assert splits.count("dev") / 9000 == pytest.approx(0.1, abs=0.025)


def test_split_of_a_group_depends_on_its_texts_alone():
    alone = splits_of_groups(np.array([0, 0, 2]), ["a", "b", "c"], {"test": 0.5}, rest="train")
    moved = splits_of_groups(np.array([0, 1, 1, 3]), ["other", "b", "a", "c"], {"test": 0.5}, rest="train")
    assert moved[1:] == alone
