"""Prompts: a template filled with a query and one or two passages, within a number of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from retrieval_kd.contracts import UserError
from retrieval_kd.data.masks import Masker
from retrieval_kd.data.tokenize import ordinary, spelled_specials
from retrieval_kd.teachers.token_rows import Columns, PaddedGroups, shares

Segment = int | list[str]  # a special token, or text and fields


class PromptTokenizer(PaddedGroups):
    """Fills a template and tokenizes the whole, as the model's authors do; user text stays ordinary text.

    What is too long loses the ends of its passages, cut between tokens; template and the place of the answer stay, and
    so does the query, unless it alone leaves no room: then half of what the template leaves is its. Special tokens that
    the template spells (a chat's turns) are special tokens; then the tokenizer adds none of its own.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        template: Holds each of the fields once, in braces.
        fields: ``query`` first, then one or two passages.
        max_length: In tokens, special tokens included.
        left: Pad on the left.
    """

    def __init__(self, tokenizer: Any, template: str, fields: Sequence[str], max_length: int, left: bool) -> None:
        super().__init__(tokenizer, left)
        self.template = template
        self.fields = list(fields)
        self.max_length = max_length
        check_template(template, self.fields)
        self._spelled = spelled_specials(tokenizer)
        self._masker = Masker(tokenizer)
        self._segments = self._cut(template)

    def _cut(self, template: str) -> list[Segment]:
        """The template at its special tokens."""
        added = self.tokenizer.added_tokens_decoder.items()  # some tokenizers add blanks and line ends too
        special = {one.content: number for number, one in added if one.special and one.content in template}
        field = "|".join(re.escape(f"{{{name}}}") for name in self.fields)
        pieces = re.split("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")", template)
        segments: list[Segment] = []
        for piece in pieces if special else [template]:
            if piece in special:
                segments.append(special[piece])
            elif piece:
                segments.append([part for part in re.split(f"({field})", piece) if part])
        return segments

    def encode(self, *texts: Sequence[str]) -> Columns:
        """Token ids of each prompt, at most ``max_length``; ``texts`` are columns in the order of the fields."""
        rows = self._tokens(texts)
        long = [row for row, ids in enumerate(rows) if len(ids) > self.max_length]
        if long:
            some = [[column[row] for row in long] for column in texts]
            for row, ids in zip(long, self._shortened(some, [len(rows[row]) for row in long]), strict=True):
                rows[row] = ids
        return {"input_ids": rows}

    def _shortened(self, texts: list[list[str]], sizes: list[int]) -> list[list[int]]:
        """Prompts whose passages are cut until they fit: where texts meet, tokens may join or part."""
        queries, passages = list(texts[0]), texts[1:]
        ends = [self._ends(column) for column in passages]
        room = [self.max_length - size + sum(len(column[row]) for column in ends) for row, size in enumerate(sizes)]
        rows: list[list[int]] = [[]] * len(sizes)
        todo = list(range(len(sizes)))
        while todo:
            cut = [list(queries), *(list(column) for column in passages)]
            for row in todo:
                if room[row] < len(passages):
                    self.cut.add(texts[0][row])
                    queries[row], dropped = self._without_end(queries[row], room[row])
                    room[row] += dropped
                    cut[0][row] = queries[row]
                for place, share in enumerate(shares([len(column[row]) for column in ends], room[row])):
                    cut[place + 1][row] = passages[place][row][: ends[place][row][share - 1]] if share else ""
            for row, ids in zip(todo, self._tokens([[column[row] for row in todo] for column in cut]), strict=True):
                rows[row] = ids
                room[row] -= max(0, len(ids) - self.max_length)
            todo = [row for row in todo if len(rows[row]) > self.max_length]
        return rows

    def _without_end(self, query: str, room: int) -> tuple[str, int]:
        """A query that leaves its passages only so much room, cut to half of both; and how many tokens it lost."""
        (ends,) = self._ends([query])
        kept = min((room + len(ends)) // 2, len(ends) - 1)
        if kept < 1 or room + len(ends) - kept < len(self.fields) - 1:
            raise UserError(
                f"max_length={self.max_length} leaves no room for a query and a passage beside the template; a larger"
                " one would"
            )
        return query[: ends[kept - 1]], len(ends) - kept

    def _ends(self, texts: list[str]) -> list[list[int]]:
        """Where in each text its tokens end."""
        encoded = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
        )
        return [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]

    def _tokens(self, texts: Sequence[Sequence[str]]) -> list[list[int]]:
        """Whole prompts, however long."""
        rows: list[list[int]] = [[] for _ in texts[0]]
        whole = len(self._segments) == 1
        for segment in self._segments:
            if isinstance(segment, int):
                for row in rows:
                    row.append(segment)
                continue
            for row, ids in zip(rows, self._text_tokens(segment, texts, whole), strict=True):
                row += ids
        return rows

    def _text_tokens(self, parts: list[str], texts: Sequence[Sequence[str]], whole: bool) -> list[list[int]]:
        names = {f"{{{name}}}": number for number, name in enumerate(self.fields)}
        columns = [texts[names[part]] if part in names else [part] * len(texts[0]) for part in parts]
        filled, hidden = self._masker.split(["".join(row) for row in zip(*columns, strict=True)])
        encoded = self.tokenizer(
            filled,
            add_special_tokens=whole,
            split_special_tokens=True,
            truncation=False,
            verbose=False,
            return_attention_mask=False,
            return_special_tokens_mask=bool(self._spelled),
            return_offsets_mapping=bool(hidden),
        )
        ids: list[list[int]] = encoded["input_ids"]
        if self._spelled:
            ids = ordinary(ids, encoded["special_tokens_mask"], self._spelled, self.tokenizer.unk_token_id)
        return self._masker.hide(ids, encoded, hidden) if hidden else ids


def check_template(template: str, fields: Sequence[str]) -> None:
    """Refuse a template that does not hold each field once."""
    wrong = [name for name in fields if template.count(f"{{{name}}}") != 1]
    if wrong:
        needed = ", ".join(f"{{{name}}}" for name in fields)
        raise UserError(f"template: {{{wrong[0]}}} must stand in it once; it holds {needed}")
