"""Texts to tokens as late interaction reads them: a marker tells queries from passages, masks fill queries up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from retrieval_kd.contracts import Side, TokenGroup, Tokens, UserError
from retrieval_kd.data.tokenize import GroupPlan, SideSettings, TextTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Marking:
    """What texts get beside their own tokens."""

    query: str  # a token behind the first special ones; empty: none
    passage: str
    augment: bool  # queries are filled up to their length with the mask token, whose vectors search too
    attend_to_mask: bool  # whether other tokens see the masks

    def of(self, side: Side) -> str:
        """The side's marker."""
        return self.query if side is Side.QUERY else self.passage


class MarkedTokenizer(TextTokenizer):
    """Puts a marker behind the first special tokens of each text, and masks behind queries.

    Markers are tokens that no text can spell, as special ones are. ``tokenizer`` is changed for that where it was told
    before that text may spell them.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, query: SideSettings, passage: SideSettings, marking: Marking
    ) -> None:
        self._markers = {side: _marker(tokenizer, side, marking.of(side)) for side in Side}
        if marking.augment and tokenizer.mask_token_id is None:
            raise UserError("student.augment=true: the tokenizer has no mask token; student.augment=false would fit")
        _not_spelled(tokenizer, [marking.query, marking.passage])
        super().__init__(tokenizer, query, passage)
        self.marking = marking
        self.mask = tokenizer.mask_token_id
        first = tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        self._behind = first.index(0) if 0 in first else 0

    @property
    def special_ids(self) -> list[int]:
        """Markers and masks too."""
        return [*super().special_ids, *(marker for marker in self._markers.values() if marker is not None)]

    def ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids of each text, marker included, cut at the side's length; of queries filled up to it."""
        length, marker, at = self.sides[side].max_length, self._markers[side], self._behind
        rows = self._cut(texts, side, length if marker is None else length - 1)
        if marker is not None:
            rows = [[*row[:at], marker, *row[at:]] for row in rows]
        if side is Side.QUERY and self.marking.augment:
            rows = [row + [self.mask] * (length - len(row)) for row in rows]
        return rows

    def groups(self, texts: Sequence[str], side: Side, plan: GroupPlan) -> Tokens:
        """Texts grouped by length; masks are not attended to unless they shall be."""
        tokens = super().groups(texts, side, plan)
        if side is Side.PASSAGE or self.marking.attend_to_mask or not self.marking.augment:
            return tokens
        return Tokens(
            tuple(
                TokenGroup(group.input_ids, group.attention_mask * (group.input_ids != self.mask))
                for group in tokens.groups
            ),
            tokens.order,
        )

    def scored(self, group: TokenGroup, side: Side) -> torch.Tensor:
        """[n, L] bool, the tokens that are no padding: of queries the masks too, attended to or not."""
        attended = group.attention_mask.bool()
        if side is Side.PASSAGE or not self.marking.augment:
            return attended
        return attended | (group.input_ids == self.mask)


def add_markers(tokenizer: PreTrainedTokenizerBase, markers: Sequence[str]) -> list[int]:
    """Add the markers that the tokenizer lacks; their ids."""
    from transformers import AddedToken

    known = tokenizer.get_vocab()
    lacking = [marker for marker in dict.fromkeys(markers) if marker and marker not in known]
    tokenizer.add_tokens(
        [AddedToken(marker, special=True, normalized=False) for marker in lacking], special_tokens=True
    )
    rows: dict[str, int] = tokenizer.get_vocab()
    return [rows[marker] for marker in lacking]


def skipped_ids(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> Mapping[str, int]:
    """Those of ``words`` that are tokens, with their ids."""
    known = tokenizer.get_vocab()
    return {word: known[word] for word in words if word in known}


def _marker(tokenizer: PreTrainedTokenizerBase, side: Side, marker: str) -> int | None:
    if not marker:
        return None
    known: dict[str, int] = tokenizer.get_vocab()
    if marker not in known:
        raise UserError(
            f"student.markers.{side}={marker}: {tokenizer.name_or_path or 'the tokenizer'} has no such token;"
            " student.add_markers=true would add it, and the name of a token that is there, or none, would fit too"
        )
    return known[marker]


def _not_spelled(tokenizer: PreTrainedTokenizerBase, markers: Sequence[str]) -> None:
    """Tokens that were added are found in texts, unless they are special and texts are split."""
    from transformers import AddedToken

    added = tokenizer.get_added_vocab()
    tokens = [AddedToken(marker, special=True, normalized=False) for marker in markers if marker in added]
    if tokens:
        tokenizer.add_tokens(tokens, special_tokens=True)
