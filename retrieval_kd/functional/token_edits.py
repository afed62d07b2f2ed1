"""Passages made of others, on plain lists of tokens: a negative that is strengthened, a positive that is weakened.

What a token is does not matter: numbers of a vocabulary, or places in a text. The same generator gives the same lists.
``share`` is that of the tokens that are changed; nothing is changed for 0. A negative may be cut only at ``cuts``, the
places between tokens from 0 to n, and a positive at ``cuts_of_positive``: those between words, say; None: all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Cuts = Sequence[int] | None
Reinforce = Callable[[Sequence[int], Sequence[int], float, np.random.Generator, Cuts, Cuts], list[int]]


def splice(
    negative: Sequence[int],
    positive: Sequence[int],
    share: float,
    generator: np.random.Generator,
    cuts: Cuts = None,
    cuts_of_positive: Cuts = None,
) -> list[int]:
    """A span of the negative gives way to one of the positive, equally long; the longest up to its share that fits."""
    return _exchange(negative, positive, share, generator, (_cuts(cuts, negative), _cuts(cuts_of_positive, positive)))


def append(
    negative: Sequence[int],
    positive: Sequence[int],
    share: float,
    generator: np.random.Generator,
    cuts: Cuts = None,
    cuts_of_positive: Cuts = None,
) -> list[int]:
    """A span of the positive behind the negative, whose end gives way to it."""
    theirs, ends = _cuts(cuts_of_positive, positive), [len(negative)]
    return _exchange(negative, positive, share, generator, (_cuts(cuts, negative), theirs), ends)


def interleave(
    negative: Sequence[int],
    positive: Sequence[int],
    share: float,
    generator: np.random.Generator,
    cuts: Cuts = None,
    cuts_of_positive: Cuts = None,
) -> list[int]:
    """Some words of the negative give way to words of the positive, in their order; words lie between cuts."""
    ours, theirs = _pieces(_cuts(cuts, negative)), _pieces(_cuts(cuts_of_positive, positive))
    size = _size(share, len(ours), len(theirs))
    places, sources = (np.sort(generator.choice(len(some), size, replace=False)).tolist() for some in (ours, theirs))
    put = {place: theirs[source] for place, source in zip(places, sources, strict=True)}
    mixed: list[int] = []
    for number, (start, end) in enumerate(ours):
        mixed += positive[slice(*put[number])] if number in put else negative[start:end]
    return mixed


def mask(tokens: Sequence[int], share: float, generator: np.random.Generator, mask_id: int) -> list[int]:
    """A share of the tokens, anywhere, gives way to the mask."""
    hidden = _drawn(len(tokens), share, generator)
    return [mask_id if place in hidden else token for place, token in enumerate(tokens)]


def delete(tokens: Sequence[int], share: float, generator: np.random.Generator) -> list[int]:
    """A share of the tokens, anywhere, is left out."""
    dropped = _drawn(len(tokens), share, generator)
    return [token for place, token in enumerate(tokens) if place not in dropped]


def _exchange(
    negative: Sequence[int],
    positive: Sequence[int],
    share: float,
    generator: np.random.Generator,
    cuts: tuple[np.ndarray, np.ndarray],
    ends: Sequence[int] | None = None,
) -> list[int]:
    """The longest span that fits, of the negative's to ``ends`` (None: anywhere), for one of the positive's."""
    ours, theirs = cuts
    for size in range(_size(share, len(negative), len(positive)), 0, -1):
        places, sources = _starts(ours, size), _starts(theirs, size)
        if ends is not None:
            places = places[np.isin(places + size, ends)]
        if len(places) and len(sources):
            at, out_of = int(generator.choice(places)), int(generator.choice(sources))
            return [*negative[:at], *positive[out_of : out_of + size], *negative[at + size :]]
    return list(negative)


def _drawn(count: int, share: float, generator: np.random.Generator) -> set[int]:
    return set(generator.choice(count, int(share * count), replace=False).tolist())


def _size(share: float, ours: int, theirs: int) -> int:
    """How many tokens are changed: one at least, where there are any and any are asked for."""
    return min(max(1, int(share * ours)), ours, theirs) if share > 0 else 0


def _cuts(cuts: Cuts, tokens: Sequence[int]) -> np.ndarray:
    return np.arange(len(tokens) + 1) if cuts is None else np.unique([0, *cuts, len(tokens)])


def _starts(cuts: np.ndarray, size: int) -> np.ndarray:
    """Cuts behind which another one follows at this distance."""
    return cuts[np.isin(cuts + size, cuts, assume_unique=True)]


def _pieces(cuts: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))
