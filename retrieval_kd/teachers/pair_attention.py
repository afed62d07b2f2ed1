"""What is within a sequence-classification model: attention between the texts of a pair, and its state of the pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from retrieval_kd.contracts import Attention, UserError, WordPairs

AT_ONCE = 8  # pairs in a forward pass, which holds the whole attention of all layers: its memory does not grow


@dataclass(frozen=True)
class PairFrame:
    """What a tokenizer puts around two texts: special tokens, and the segments where the model has them."""

    before: list[int]
    between: list[int]
    behind: list[int]
    segments: tuple[int, int] | None  # of the first text and what stands before it, of the second and its end

    @classmethod
    def of(cls, tokenizer: Any) -> PairFrame:
        """Read off a pair of one word each."""
        encoded = tokenizer("a", "a")
        ids, places = encoded["input_ids"], encoded.sequence_ids(0)
        first = [place for place, text in enumerate(places) if text == 0]
        second = [place for place, text in enumerate(places) if text == 1]
        types = encoded.get("token_type_ids")
        return cls(
            ids[: first[0]],
            ids[first[-1] + 1 : second[0]],
            ids[second[-1] + 1 :],
            None if types is None else (types[first[0]], types[second[0]]),
        )

    @property
    def size(self) -> int:
        """How many tokens it adds."""
        return len(self.before) + len(self.between) + len(self.behind)

    def row(self, query: list[int], passage: list[int]) -> tuple[list[int], list[int]]:
        """Ids and segments of a whole pair; what stands between both texts belongs to the first."""
        head = [*self.before, *query, *self.between]
        tail = [*passage, *self.behind]
        one, other = self.segments or (0, 0)
        return head + tail, [one] * len(head) + [other] * len(tail)


def between_texts(
    model: PreTrainedModel, frame: PairFrame, pad: int, pairs: WordPairs, max_length: int, averaged: bool
) -> Attention:
    """Attention of all pairs, some at a time; a pair that is too long loses the end of its passage.

    The model must attend eagerly (other implementations give no weights) and be in eval mode (dropout acts on them).
    """
    lengths, read = pairs.query_lengths.tolist(), _read(frame, pairs, max_length)
    heads = 1 if averaged else int(model.config.num_attention_heads)
    n, (rows, columns) = len(lengths), (pairs.queries.shape[1], pairs.passages.shape[1])
    found = Attention(
        torch.zeros(n, heads, rows, columns, device=model.device),
        torch.zeros(n, heads, columns, rows, device=model.device),
        torch.tensor(read, dtype=torch.int64, device=model.device),
    )
    for start, given in _given(model, frame, pad, pairs, read):
        attentions = model(**given, output_attentions=True).attentions
        if not attentions:
            raise UserError(f"teacher: {type(model).__name__} does not tell its attention; BERT and its kin do")
        weights = attentions[-1].float()
        if averaged:
            weights = weights.mean(1, keepdim=True)
        for number, one in enumerate(weights, start):
            query, passage = lengths[number], read[number]
            left = len(frame.before)
            right = left + query + len(frame.between)
            found.to_passage[number, :, :query, :passage] = one[:, left : left + query, right : right + passage]
            found.to_query[number, :, :passage, :query] = one[:, right : right + passage, left : left + query]
    return found


def first_states(model: PreTrainedModel, frame: PairFrame, pad: int, pairs: WordPairs, max_length: int) -> Tensor:
    """The last layer's state [n, D] of each pair's first token, float32; too long pairs lose the end of the passage."""
    if not frame.before:
        raise UserError(f"teacher: {type(model).__name__} puts no token before a pair that stands for it; BERT does")
    states = [
        model.base_model(**given).last_hidden_state[:, 0].float()
        for _, given in _given(model, frame, pad, pairs, _read(frame, pairs, max_length))
    ]
    return torch.cat(states) if states else torch.zeros(0, model.config.hidden_size, device=model.device)


def _read(frame: PairFrame, pairs: WordPairs, max_length: int) -> list[int]:
    """How many tokens of each passage there is room for."""
    longest = int(pairs.query_lengths.max()) if len(pairs.query_lengths) else 0
    if longest + frame.size >= max_length:
        raise UserError(
            f"objective: a query of {longest} tokens leaves no room for a passage in the white box's"
            f" max_length={max_length}"
        )
    room = max_length - frame.size - pairs.query_lengths
    return torch.minimum(pairs.passage_lengths, room).tolist()


def _given(
    model: PreTrainedModel, frame: PairFrame, pad: int, pairs: WordPairs, read: list[int]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The first pair's number and the model's input of some pairs after the other."""
    texts = zip(pairs.queries.tolist(), pairs.query_lengths.tolist(), pairs.passages.tolist(), read, strict=True)
    rows = [frame.row(query[:length], passage[:kept]) for query, length, passage, kept in texts]
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        width = max(len(ids) for ids, _ in part)
        given = {
            "input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in part]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in part]),
        }
        if frame.segments is not None:
            given["token_type_ids"] = torch.tensor([types + [0] * (width - len(types)) for _, types in part])
        yield start, {name: value.to(model.device) for name, value in given.items()}
