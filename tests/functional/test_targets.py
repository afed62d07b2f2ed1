import math

import pytest
import torch

from retrieval_kd.functional.targets import best_scored


def by_hand(scores, listed):
    found = []
    for row, kept in zip(scores, listed, strict=True):
        usable = [place for place, value in enumerate(row) if kept[place] and not math.isnan(value)]
        best = max(usable, key=lambda place: row[place], default=None)  # the first of equals
        found.append([place == best for place in range(len(row))])
    return found


@pytest.mark.parametrize("seed", range(5))
def test_matches_the_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(-3, 3, (6, 5), generator=generator).double()  # with ties
    scores[torch.rand(6, 5, generator=generator) < 0.3] = torch.nan
    listed = torch.rand(6, 5, generator=generator) < 0.6
    listed[0], scores[1] = False, torch.nan
    assert best_scored(scores, listed).tolist() == by_hand(scores.tolist(), listed.tolist())


def test_what_is_not_listed_or_not_scored_is_never_best():
    scores = torch.tensor([[9.0, 1.0, torch.nan], [torch.nan, torch.nan, torch.nan]])
    listed = torch.tensor([[False, True, True], [True, True, True]])
    assert best_scored(scores, listed).tolist() == [[False, True, False], [False, False, False]]
