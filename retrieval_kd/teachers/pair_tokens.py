"""(query, passage) pairs as token groups of like length, ready for a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retrieval_kd.data.masks import Masker
from retrieval_kd.data.tokenize import ordinary, spelled_specials
from retrieval_kd.teachers.token_rows import Columns, PaddedGroups


class PairTokenizer(PaddedGroups):
    """Encodes pairs as the model was trained to read them, with user text as ordinary text.

    A pair that is too long loses the end of its passage. Only where a query alone leaves no room for a passage is the
    longer of the two cut first.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        max_length: In tokens, special tokens included.
        templates: For the query, holding ``{query}``, and the passage, holding ``{passage}``.
    """

    def __init__(self, tokenizer: Any, max_length: int, templates: tuple[str, str]) -> None:
        super().__init__(tokenizer)
        self.max_length = max_length
        self.templates = templates
        self._spelled = spelled_specials(tokenizer)
        self._masker = Masker(tokenizer)

    def encode(self, queries: Sequence[str], passages: Sequence[str]) -> Columns:
        """Token ids (and segment ids where the model has them) of each pair, cut to ``max_length``."""
        firsts = [self.templates[0].replace("{query}", query) for query in queries]
        seconds = [self.templates[1].replace("{passage}", passage) for passage in passages]
        long = self._too_long(firsts)
        # The tokenizer refuses a whole batch if it may cut passages only and one query leaves no room.
        parts = [
            (rows, self._call([firsts[i] for i in rows], [seconds[i] for i in rows], strategy))
            for strategy, rows in (
                ("only_second", [i for i, first in enumerate(firsts) if first not in long]),
                ("longest_first", [i for i, first in enumerate(firsts) if first in long]),
            )
            if rows
        ]
        columns: Columns = {}
        for rows, encoded in parts:
            for name, values in encoded.items():
                column = columns.setdefault(name, [[]] * len(firsts))
                for row, value in zip(rows, values, strict=True):
                    column[row] = value
        return columns

    def _call(self, firsts: list[str], seconds: list[str], strategy: str) -> Columns:
        seconds, hidden = self._masker.split(seconds)
        encoded = self.tokenizer(
            firsts,
            seconds,
            truncation=strategy,
            max_length=self.max_length,
            split_special_tokens=True,
            return_attention_mask=False,
            return_special_tokens_mask=bool(self._spelled),
            return_offsets_mapping=bool(hidden),
        )
        columns = dict(encoded)
        if self._spelled:
            added = columns.pop("special_tokens_mask")
            columns["input_ids"] = ordinary(columns["input_ids"], added, self._spelled, self.tokenizer.unk_token_id)
        if hidden:
            del columns["offset_mapping"]
            columns["input_ids"] = self._masker.hide(columns["input_ids"], encoded, hidden, sequence=1)
        return columns

    def _too_long(self, firsts: list[str]) -> set[str]:
        room = self.max_length - self.tokenizer.num_special_tokens_to_add(pair=True)
        distinct = list(dict.fromkeys(firsts))
        ids = self.tokenizer(
            distinct, add_special_tokens=False, split_special_tokens=True, truncation=False, verbose=False
        )["input_ids"]
        return {text for text, tokens in zip(distinct, ids, strict=True) if len(tokens) >= room}
