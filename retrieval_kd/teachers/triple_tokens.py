"""(query, passage i, passage j) as one row of tokens for a pairwise cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.data.masks import Masker
from retrieval_kd.data.tokenize import spelled_specials
from retrieval_kd.teachers.token_rows import Columns, PaddedGroups, shares


class TripleTokenizer(PaddedGroups):
    """[CLS] query [SEP] passage i [SEP] passage j [SEP], or what stands for these in another tokenizer.

    The second passage is a segment of its own where the model has segments: it then tells the two apart in every
    layer, and not by their positions alone. What is too long loses the ends of its passages, each of which gets half
    of the room that the query leaves, and what the other does not need.
    A query that alone leaves none is cut to half of it.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        super().__init__(tokenizer)
        self.max_length = max_length
        self._spelled = spelled_specials(tokenizer)
        self._masker = Masker(tokenizer)
        self._start, self._between, self._end = _frame(tokenizer)
        self._segments = "token_type_ids" in tokenizer.model_input_names

    @property
    def frame(self) -> int:
        """Special tokens of a row."""
        return len(self._start) + 2 * len(self._between) + len(self._end)

    def encode(self, queries: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> Columns:
        """Token ids, and segment ids where the model has them, of each row, cut to ``max_length``."""
        ids = self._ids(list(dict.fromkeys([*queries, *firsts, *seconds])))
        columns: Columns = {"input_ids": [], "token_type_ids": []} if self._segments else {"input_ids": []}
        for query, first, second in zip(queries, firsts, seconds, strict=True):
            asked = self._query(query, ids[query])
            room = self.max_length - self.frame - len(asked)
            one, other = shares((len(ids[first]), len(ids[second])), room)
            left = [*self._start, *asked, *self._between, *ids[first][:one], *self._between]
            right = [*ids[second][:other], *self._end]
            columns["input_ids"].append(left + right)
            if self._segments:
                columns["token_type_ids"].append([0] * len(left) + [1] * len(right))
        return columns

    def _query(self, query: str, ids: list[int]) -> list[int]:
        """Tokens of a query; one that leaves no room for two passages loses its end."""
        room = self.max_length - self.frame
        if room - len(ids) >= 2:
            return ids
        if room < 4:
            raise UserError(
                f"teacher.judge.max_length={self.max_length} leaves no room for a query and two passages; a larger one"
                " would"
            )
        self.cut.add(query)
        return ids[: room // 2]

    def _ids(self, texts: list[str]) -> dict[str, list[int]]:
        """Tokens of each text by itself; what it spells of special tokens is ordinary text."""
        plain, hidden = self._masker.split(texts)
        encoded = self.tokenizer(
            plain,
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            verbose=False,
            return_offsets_mapping=bool(hidden),
        )
        ids = encoded["input_ids"]
        unknown = self.tokenizer.unk_token_id
        if self._spelled:
            ids = [[unknown if token in self._spelled else token for token in row] for row in ids]
        return dict(zip(texts, self._masker.hide(ids, encoded, hidden), strict=True))


def _frame(tokenizer: Any) -> tuple[list[int], list[int], list[int]]:
    """Special tokens before, between and behind two texts, as the tokenizer puts them."""
    encoded = tokenizer("a", "a", return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    first = special.index(0)
    last = len(special) - 1 - special[::-1].index(0)
    middle = [token for token, own in zip(ids[first:last], special[first:last], strict=True) if own]
    return ids[:first], middle, ids[last + 1 :]
