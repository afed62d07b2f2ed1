"""Texts with hidden parts: where a mask stands is marked by characters that no text has, and shown by each tokenizer.

The marks are two of the code points that Unicode keeps for programs' own use and never gives to a character;
collections replace them. So a passage that spells "[MASK]" is ordinary text, and one with hidden parts is a string like
any other: it has a digest, it is stored and looked up. What is hidden stays in the text, so that a tokenizer finds the
very tokens that it would find without marks, and puts its mask for those that touch a hidden part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from retrieval_kd.contracts import UserError

OPEN, CLOSE = "\ufdd0", "\ufdd1"
ORDINARY = str.maketrans({OPEN: "\ufffd", CLOSE: "\ufffd"})

Span = tuple[int, int]  # of characters


def has_masks(text: str) -> bool:
    """Whether a part of a text is hidden."""
    return OPEN in text


def marked(text: str, spans: Sequence[Span]) -> str:
    """Hide parts of a text, given in ascending order; those that touch become one."""
    hidden: list[Span] = []
    for start, end in spans:
        touches = hidden and hidden[-1][1] == start
        hidden.append((hidden.pop()[0], end) if touches else (start, end))
    parts, last = [], 0
    for start, end in hidden:
        parts += [text[last:start], OPEN, text[start:end], CLOSE]
        last = end
    return "".join([*parts, text[last:]])


def unmarked(text: str) -> tuple[str, list[Span]]:
    """A text without marks, and its hidden parts; one that was cut off is hidden to the end."""
    first, *rest = text.split(OPEN)
    plain, spans = first, []
    for part in rest:
        hidden, _, shown = part.partition(CLOSE)
        spans.append((len(plain), len(plain) + len(hidden)))
        plain += hidden + shown
    return plain, [span for span in spans if span[0] < span[1]]


def without_hidden(text: str) -> str:
    """A text without its hidden parts, for who counts words."""
    if not has_masks(text):
        return text
    first, *rest = text.split(OPEN)
    return " ".join([first, *(part.partition(CLOSE)[2] for part in rest)])


def ordinary(text: str) -> str:
    """Somebody's text, in which nothing is hidden."""
    return text.translate(ORDINARY) if OPEN in text or CLOSE in text else text


class Masker:
    """Shows hidden parts to a tokenizer: tokens that touch one become its mask."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @property
    def mask(self) -> int:
        """The tokenizer's mask."""
        if self.tokenizer.mask_token_id is None:
            raise UserError(no_mask(self.tokenizer.name_or_path))
        return int(self.tokenizer.mask_token_id)

    def split(self, texts: Sequence[str]) -> tuple[list[str], dict[int, list[Span]]]:
        """Texts without marks, and the hidden parts of those rows that have any."""
        rows = {row: unmarked(text) for row, text in enumerate(texts) if has_masks(text)}
        plain = [rows[row][0] if row in rows else text for row, text in enumerate(texts)]
        return plain, {row: spans for row, (_, spans) in rows.items()}

    def hide(
        self, ids: Sequence[list[int]], encoded: Any, hidden: Mapping[int, Sequence[Span]], sequence: int = 0
    ) -> list[list[int]]:
        """Token ids of a batch, those of hidden parts as the mask.

        Args:
            ids: Of each row.
            encoded: What the tokenizer gave for the batch, with ``return_offsets_mapping``.
            hidden: Parts of the texts, by row.
            sequence: Place of the text among those that a row was made of.
        """
        ids = list(ids)
        for row, spans in hidden.items():
            ids[row] = list(ids[row])
            owners = encoded.sequence_ids(row)
            for place, (start, end) in enumerate(encoded["offset_mapping"][row]):
                if owners[place] == sequence and any(start < last and first < end for first, last in spans):
                    ids[row][place] = self.mask
        return ids


def no_mask(name: str) -> str:
    """What is told of a tokenizer that cannot show hidden parts."""
    return (
        f"{name or 'a tokenizer'} has no mask token, and the passages that negatives=dark makes have masks;"
        " negatives.made.masked.variant=delete, or negatives.made.masked.count=0, would fit"
    )
