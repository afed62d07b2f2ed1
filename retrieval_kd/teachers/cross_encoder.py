"""A cross-encoder that reads query and passage together: trains on judged lists, scores pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from retrieval_kd.contracts import Attention, UserError, WordPairs
from retrieval_kd.functional.precision import autocasts
from retrieval_kd.teachers.adamw import LinearAdamW
from retrieval_kd.teachers.classifier import check_length
from retrieval_kd.teachers.cross_encoder_data import ListBatch
from retrieval_kd.teachers.pair_attention import PairFrame, between_texts, first_states
from retrieval_kd.teachers.pair_tokens import PairTokenizer
from retrieval_kd.teachers.reranker import Reranker
from retrieval_kd.teachers.token_rows import score_by_length

ListLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
PLAIN = ("{query}", "{passage}")


class CrossEncoder(Reranker):
    """Any Hugging Face sequence-classification model of one or two labels as a ``Scorer`` that can be trained.

    Args:
        name: Hub name or folder.
        max_length: Of a pair in tokens, special tokens included.
        templates: How the query and the passage are written for the model.
        precision: Of the forward pass when it scores; in training the trainer's holds.
        tokens_per_batch: Padded tokens per forward pass; changes speed and memory, not scores.
        loss: ``(scores, labels, mask) -> scalar`` on [Q, n], see ``functional.ranking_losses``; to train only.
        optimizer: To train only.
    """

    white_box: ClassVar[bool] = True  # tells its attention and its state

    def __init__(
        self,
        name: str,
        max_length: int = 256,
        templates: Sequence[str] = PLAIN,
        precision: str = "fp32",
        tokens_per_batch: int = 8192,
        loss: ListLoss | None = None,
        optimizer: LinearAdamW | None = None,
    ) -> None:
        super().__init__(name, precision, tokens_per_batch, optimizer, to_train=loss is not None)
        check_length(self.name, self.encoder, self.tokenizer, max_length)
        self.pairs = PairTokenizer(self.tokenizer, max_length, _checked_templates(templates))
        self.loss = loss

    def training_step(self, batch: ListBatch, batch_idx: int) -> Tensor:
        """Loss of the lists."""
        loss = self._list_loss(batch, self(batch.pairs))
        self.log("train/loss", loss, batch_size=len(batch.labels), prog_bar=True)
        return loss

    def _list_loss(self, batch: ListBatch, scores: Tensor) -> Tensor:
        if self.loss is None:
            raise UserError("teacher.loss: absent; training a cross-encoder needs one, scoring does not")
        lists = scores.new_zeros(batch.mask.shape).masked_scatter(batch.mask, scores)
        return self.loss(lists, batch.labels, batch.mask)

    @property
    def fingerprint(self) -> str:
        """Weights, tokenizer, lengths, templates, precision."""
        return "cross_encoder:" + self.content(str(self.pairs.max_length), *self.pairs.templates)

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N] on the module's own device; the mode (train or eval) is left as it was found."""
        who = f"cross-encoder {self.name}"
        return score_by_length(self.pairs, (queries, passages), self.infer, self.tokens_per_batch, who)

    @torch.no_grad()
    def attention(self, pairs: WordPairs, averaged: bool) -> Attention:
        """The last layer's attention between both texts."""
        with self._within("eager") as (frame, pad):  # other implementations do not give their weights
            return between_texts(self.encoder, frame, pad, pairs, self.pairs.max_length, averaged)

    @torch.no_grad()
    def features(self, pairs: WordPairs) -> Tensor:
        """The last layer's state of the first token, by which the head decides."""
        with self._within(self.encoder.config._attn_implementation) as (frame, pad):
            return first_states(self.encoder, frame, pad, pairs, self.pairs.max_length)

    @contextmanager
    def _within(self, implementation: str) -> Iterator[tuple[PairFrame, int]]:
        """The model without dropout and with an implementation of attention; then both as they were found."""
        if self.pairs.templates != PLAIN:
            raise UserError(
                f"teacher.templates: {list(self.pairs.templates)} add words to texts; {list(PLAIN)} would fit"
            )
        training, before = self.encoder.training, self.encoder.config._attn_implementation
        self.encoder.eval()
        self.encoder.set_attn_implementation(implementation)
        half = autocasts(self.precision, self.device.type)
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
                yield PairFrame.of(self.tokenizer), int(self.tokenizer.pad_token_id)
        finally:
            self.encoder.set_attn_implementation(before)
            self.encoder.train(training)


def _checked_templates(templates: Sequence[str]) -> tuple[str, str]:
    if len(templates) != 2 or "{query}" not in templates[0] or "{passage}" not in templates[1]:
        raise UserError(f"teacher.templates: {list(templates)} must be one text with {{query}}, one with {{passage}}")
    return templates[0], templates[1]
