import numpy as np
import pytest

from retrieval_kd.functional.token_edits import append, delete, interleave, mask, splice

NEGATIVE, POSITIVE = list(range(20)), list(range(100, 130))
REINFORCE = [splice, append, interleave]


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("reinforce", REINFORCE)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.35, 0.5, 1.0])
def test_length_and_share_are_kept(reinforce, share):
    for seed in range(20):
        made = reinforce(NEGATIVE, POSITIVE, share, generator(seed))
        assert len(made) == len(NEGATIVE)
        assert sum(token >= 100 for token in made) == max(1, int(share * 20))


@pytest.mark.parametrize("reinforce", REINFORCE)
def test_a_share_of_nothing_is_the_negative(reinforce):
    assert reinforce(NEGATIVE, POSITIVE, 0.0, generator()) == NEGATIVE


@pytest.mark.parametrize("reinforce", REINFORCE)
def test_the_same_seed_makes_the_same(reinforce):
    made = [reinforce(NEGATIVE, POSITIVE, 0.3, generator(seed)) for seed in (1, 1, 2)]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("reinforce", REINFORCE)
@pytest.mark.parametrize(("negative", "positive"), [([], POSITIVE), (NEGATIVE, []), ([], [])])
def test_where_there_is_nothing_nothing_is_changed(reinforce, negative, positive):
    assert reinforce(negative, positive, 0.5, generator()) == negative


@pytest.mark.parametrize("reinforce", REINFORCE)
def test_a_positive_shorter_than_the_span(reinforce):
    made = reinforce(NEGATIVE, [100, 101], 0.5, generator())
    assert [token for token in made if token >= 100] == [100, 101]
    assert len(made) == 20


def test_splice_puts_one_span_for_another_anywhere():
    starts = set()
    for seed in range(200):
        made = splice(NEGATIVE, POSITIVE, 0.25, generator(seed))
        at = next(place for place, token in enumerate(made) if token >= 100)
        source = made[at]
        assert made == NEGATIVE[:at] + list(range(source, source + 5)) + NEGATIVE[at + 5 :]
        starts.add((at, source))
    assert {at for at, _ in starts} == set(range(16))
    assert {source for _, source in starts} == set(range(100, 126))


def test_append_keeps_the_beginning():
    made = append(NEGATIVE, POSITIVE, 0.25, generator(3))
    assert made[:15] == NEGATIVE[:15]
    assert made[15:] == list(range(made[15], made[15] + 5))


def test_interleave_keeps_the_order_of_both():
    made = interleave(NEGATIVE, POSITIVE, 0.4, generator(3))
    own, theirs = [token for token in made if token < 100], [token for token in made if token >= 100]
    assert own == sorted(own)
    assert theirs == sorted(theirs)
    assert all(made[token] == token for token in own)


@pytest.mark.parametrize("reinforce", [splice, append])
def test_cuts_are_between_words(reinforce):
    """Words of three tokens in the negative, of four in the positive: only whole ones change places, 12 tokens each."""
    for seed in range(20):
        made = reinforce(NEGATIVE, range(100, 132), 0.7, generator(seed), range(2, 20, 3), range(0, 32, 4))
        theirs = [token - 100 for token in made if token >= 100]
        assert len(made) == 20
        assert theirs == list(range(theirs[0], theirs[0] + 12))
        assert theirs[0] % 4 == 0
        assert made.index(theirs[0] + 100) in (2, 5, 8)


def test_no_cut_that_fits():
    assert splice(NEGATIVE, POSITIVE, 0.3, generator(), range(0, 20, 20), range(0, 30, 7)) == NEGATIVE


def test_interleave_takes_whole_words():
    made = interleave(NEGATIVE, POSITIVE, 0.5, generator(1), range(0, 20, 5), range(0, 30, 10))
    assert sorted(token // 10 for token in made if token >= 100)[::10] in ([10, 11], [11, 12], [10, 12])
    assert sum(token < 100 for token in made) == 10


@pytest.mark.parametrize("share", [0.0, 0.04, 0.3, 0.7, 1.0])
def test_mask_hides_a_share_and_keeps_the_rest_in_place(share):
    made = mask(NEGATIVE, share, generator(), -1)
    hidden = [place for place, token in enumerate(made) if token == -1]
    assert len(hidden) == int(share * 20)
    assert [token for token in made if token != -1] == [token for token in NEGATIVE if token not in hidden]
    if share == 0:
        assert made == NEGATIVE


def test_any_token_may_be_hidden():
    seen = {
        place for seed in range(60) for place, token in enumerate(mask(NEGATIVE, 0.2, generator(seed), -1)) if token < 0
    }
    assert seen == set(range(20))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_delete_drops_what_mask_hides(share):
    hidden = mask(NEGATIVE, share, generator(5), -1)
    assert delete(NEGATIVE, share, generator(5)) == [token for token in hidden if token != -1]
