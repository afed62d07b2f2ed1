"""Texts as a tokenizer cuts them, and texts put together from such pieces."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from retrieval_kd.data.masks import Span, marked

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])")


@dataclass(frozen=True)
class Pieces:
    """A text and where its first tokens stand in it, behind its title; title and what comes behind are left alone."""

    text: str
    spans: Sequence[Span]  # of characters, one for each token
    words: Sequence[int]  # tokens that begin a word
    title: int = 0  # characters of it, at the beginning

    def __len__(self) -> int:
        return len(self.spans)

    @cached_property
    def sentences(self) -> list[int]:
        """Tokens that begin a sentence."""
        starts = [start for start, _ in self.spans]
        places = {bisect_left(starts, one.end()) for one in SENTENCE_END.finditer(self.text)}
        return sorted({0, *places} - {len(starts)})

    def hiding(self, places: Sequence[int]) -> str:
        """The text with some of its tokens hidden, given in ascending order."""
        return marked(self.text, [self.spans[place] for place in places])

    def of(self, first: int, last: int) -> str:
        """What tokens ``first`` to ``last`` span, both included."""
        return self.text[self.spans[first][0] : self.spans[last][1]]


def put_together(order: Sequence[int], text: Pieces, other: Pieces) -> str:
    """A text of tokens of two, given by their places, those of the other behind those of the first.

    Neighbours of one text keep what stood between them; a space parts all others. The first text's title leads, and
    what its tokens do not reach follows.
    """
    every = len(text)
    parts = []
    for first, last in _runs(order, every):
        parts.append(text.of(first, last) if last < every else other.of(first - every, last - every))
    rest = text.text[text.spans[-1][1] :] if every else ""
    whole = " ".join([text.text[: text.title], *parts] if text.title else parts)
    return whole + rest if order and order[-1] == every - 1 else f"{whole} {rest.strip()}".strip()


def _runs(order: Sequence[int], every: int) -> list[tuple[int, int]]:
    """First and last of each run of neighbours, none of which goes from one text to the other."""
    if not order:
        return []
    breaks = [place for place, (one, two) in enumerate(pairwise(order), 1) if two != one + 1 or two == every]
    return [(order[start], order[end - 1]) for start, end in pairwise([0, *breaks, len(order)])]


class Cutter:
    """Cuts texts at the tokens of a fast tokenizer, of which so many take part as fit into ``max_length``."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.length = max(1, max_length - tokenizer.num_special_tokens_to_add())

    def __call__(self, texts: Sequence[str], titles: Sequence[int] | None = None) -> list[Pieces]:
        """Pieces of each text; of its title, so many characters at the beginning, there are none."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=True,
            max_length=self.length,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        found = []
        for row, (text, title) in enumerate(zip(texts, titles or [0] * len(texts), strict=True)):
            owners = encoded.word_ids(row)
            tokens = [
                (span, owner)
                for span, owner in zip(encoded["offset_mapping"][row], owners, strict=True)
                if max(title, span[0]) < span[1]  # some tokenizers put tokens where the text has nothing
            ]
            words = [place for place, (_, owner) in enumerate(tokens) if not place or owner != tokens[place - 1][1]]
            found.append(Pieces(text, [span for span, _ in tokens], words, title))
        return found
