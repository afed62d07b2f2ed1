"""Texts to token groups, one prompt and one length per side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from retrieval_kd.contracts import Side, TokenGroup, Tokens
from retrieval_kd.data.masks import Masker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GroupPlan = Callable[[np.ndarray], list[tuple[int, int]]]
PROBE = "The Café's 3 re-opened doors, naïvely: 'x_y' == 0.5?"


@dataclass(frozen=True)
class SideSettings:
    """What one side's texts get before the encoder sees them."""

    prompt: str
    max_length: int


def spelled_specials(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special tokens that text can still spell: unigram models (XLM-RoBERTa's) have them in their vocabulary."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    if tokenizer.unk_token_id is None or not special:
        return frozenset()
    texts = [text for token in tokenizer.all_special_tokens for text in (token, f"a {token} b{token}c")]
    found = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return frozenset(special.intersection(token for ids in found for token in ids))


def same_tokens(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether ids of ``other`` mean the same to ``tokenizer``, which may know more, and both cut texts alike."""
    known: dict[str, int] = tokenizer.get_vocab()
    if any(known.get(token) != number for token, number in other.get_vocab().items()):
        return False
    cut = [one(PROBE, add_special_tokens=False)["input_ids"] for one in (tokenizer, other)]
    return bool(cut[0] == cut[1])


def ordinary(
    ids: list[list[int]], added: list[list[int]], spelled: frozenset[int], unknown: int | None
) -> list[list[int]]:
    """Special tokens that the text spelled, and the tokenizer did not add, as the unknown token."""
    return [
        [unknown if token in spelled and not own else token for token, own in zip(*row, strict=True)]  # type: ignore
        for row in zip(ids, added, strict=True)
    ]


class TextTokenizer:
    """Tokenizes queries and passages; text that spells a special token stays ordinary text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, query: SideSettings, passage: SideSettings) -> None:
        self.tokenizer = tokenizer
        self.sides = {Side.QUERY: query, Side.PASSAGE: passage}
        pad = tokenizer.pad_token_id
        if pad is None:
            raise ValueError(f"the tokenizer of {tokenizer.name_or_path} has no padding token")
        self.pad = int(pad)
        self._spelled = spelled_specials(tokenizer)
        self._masker = Masker(tokenizer)
        self._of_prompts = {"": 0}

    def cut(self, lengths: Mapping[Side, int]) -> Self:
        """The same tokenizer with other lengths."""
        other = copy.copy(self)
        other.sides = {
            side: replace(settings, max_length=lengths.get(side, settings.max_length))
            for side, settings in self.sides.items()
        }
        return other

    @property
    def special_ids(self) -> list[int]:
        """Tokens that no text is made of; unknown words are."""
        return sorted(set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id})

    def prompt_tokens(self, side: Side) -> int:
        """How many tokens a side's prompt puts before those of each text."""
        prompt = self.sides[side].prompt.rstrip()
        if prompt not in self._of_prompts:
            said = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
            encoded = self.tokenizer(self.sides[side].prompt + PROBE, **said)
            self._of_prompts[prompt] = sum(start < len(prompt) for start, _ in encoded["offset_mapping"])
        return self._of_prompts[prompt]

    def ids(self, texts: Sequence[str], side: Side) -> list[list[int]]:
        """Token ids of each text, specials included, cut at the side's length."""
        return self._cut(texts, side, self.sides[side].max_length)

    def _cut(self, texts: Sequence[str], side: Side, length: int) -> list[list[int]]:
        if not texts:
            return []
        prompt = self.sides[side].prompt
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        prompted, hidden = self._masker.split(prompted) if side is Side.PASSAGE else (prompted, {})
        encoded = self.tokenizer(
            prompted,
            truncation=True,
            max_length=length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_special_tokens_mask=bool(self._spelled),
            return_offsets_mapping=bool(hidden),
            split_special_tokens=True,
        )
        ids: list[list[int]] = encoded["input_ids"]
        if self._spelled:
            ids = ordinary(ids, encoded["special_tokens_mask"], self._spelled, self.tokenizer.unk_token_id)
        return self._masker.hide(ids, encoded, hidden) if hidden else ids

    def groups(self, texts: Sequence[str], side: Side, plan: GroupPlan) -> Tokens:
        """Texts sorted by length, cut by ``plan`` and padded group by group."""
        ids = self.ids(texts, side)
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        order = np.argsort(lengths, kind="stable")
        groups = tuple(self._pad([ids[i] for i in order[start:end]]) for start, end in plan(lengths[order]))
        return Tokens(groups, torch.from_numpy(order))

    def _pad(self, ids: list[list[int]]) -> TokenGroup:
        width = max(map(len, ids))
        input_ids = np.full((len(ids), width), self.pad, dtype=np.int64)
        mask = np.zeros((len(ids), width), dtype=np.int64)
        for row, tokens in enumerate(ids):
            input_ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return TokenGroup(torch.from_numpy(input_ids), torch.from_numpy(mask))
