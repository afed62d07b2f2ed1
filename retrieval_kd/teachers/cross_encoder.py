"""A cross-encoder that reads query and passage together: trains on judged lists, scores pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.data.files import atomic_folder, text_digest
from retrieval_kd.data.length_groups import budget_groups
from retrieval_kd.data.progress import track
from retrieval_kd.functional.precision import autocasts, computed_in
from retrieval_kd.teachers.adamw import LinearAdamW
from retrieval_kd.teachers.classifier import check_length, classifier_digest, load_classifier, score_kind
from retrieval_kd.teachers.cross_encoder_data import ListBatch
from retrieval_kd.teachers.pair_tokens import PairBatch, PairTokenizer

ListLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
WINDOW = 16_384  # pairs tokenized and sorted by length together: bounds memory, costs no speed


class CrossEncoder(pl.LightningModule):
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

    stored = True

    def __init__(
        self,
        name: str,
        max_length: int = 256,
        templates: Sequence[str] = ("{query}", "{passage}"),
        precision: str = "fp32",
        tokens_per_batch: int = 8192,
        loss: ListLoss | None = None,
        optimizer: LinearAdamW | None = None,
    ) -> None:
        super().__init__()
        self.name = str(name)
        self.encoder, tokenizer = load_classifier(self.name, to_train=loss is not None)
        self.kind: ScoreKind = score_kind(self.name, self.encoder)
        check_length(self.name, self.encoder, tokenizer, max_length)
        self.pairs = PairTokenizer(tokenizer, max_length, _checked_templates(templates))
        autocasts(precision, "cpu")  # refuses an unknown one before anything is scored
        self.precision = precision
        self.tokens_per_batch = tokens_per_batch
        self.loss = loss
        self.optimizer = optimizer
        self._versions: tuple[tuple[int, int], ...] = ()
        self._digest = ""

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and tokenizer: a ``name`` for this class and for any Hugging Face program."""
        with atomic_folder(Path(folder)) as temporary:
            self.encoder.save_pretrained(temporary)
            self.pairs.tokenizer.save_pretrained(temporary)

    def forward(self, batch: PairBatch) -> Tensor:
        """float32 [N] scores in the order of the pairs."""
        scores = torch.cat([self._group_scores(group) for group in batch.groups])
        return scores[batch.order.argsort()]

    def _group_scores(self, group: dict[str, Tensor]) -> Tensor:
        logits = self.encoder(**group).logits.float()
        return logits[:, 0] if self.kind is ScoreKind.LOGIT else logits[:, 1] - logits[:, 0]

    # Training

    def on_train_start(self) -> None:
        """Hugging Face opens models in eval mode and Lightning leaves them there: without this, no dropout."""
        self.encoder.train()

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

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule over all steps of the trainer."""
        if self.optimizer is None:
            raise UserError("teacher.optimizer: absent; training a cross-encoder needs one, scoring does not")
        optimizer, schedule = self.optimizer.build(self.encoder, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Scoring

    @property
    def fingerprint(self) -> str:
        """Weights, tokenizer, lengths, templates, precision; the weights are read again once they have changed."""
        weights = self.encoder.state_dict().values()
        versions = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if versions != self._versions:
            self._versions, self._digest = versions, classifier_digest(self.encoder, self.pairs.tokenizer)
        precision = computed_in(self.precision, self.device.type)
        settings = (str(self.pairs.max_length), *self.pairs.templates, precision)
        return "cross_encoder:" + text_digest(self._digest, *settings)

    def score(self, queries: Sequence[str], passages: Sequence[str]) -> np.ndarray:
        """float32 [N] on the module's own device; the mode (train or eval) is left as it was found."""
        scores = np.empty(len(queries), dtype=np.float32)
        training = self.encoder.training
        self.encoder.eval()
        try:
            for _ in track(self._score_into(scores, queries, passages), "score pairs", total=len(queries)):
                pass
        finally:
            self.encoder.train(training)
        bad = np.flatnonzero(~np.isfinite(scores))
        if bad.size:
            count = f"{bad.size} of {len(scores)} scores are not numbers"
            raise UserError(f"cross-encoder {self.name}: {count} (first query: {queries[bad[0]][:60]!r})")
        return scores

    def _score_into(self, scores: np.ndarray, queries: Sequence[str], passages: Sequence[str]) -> Iterator[int]:
        """Fill ``scores``, yielding each pair's number when it is done."""
        for start in range(0, len(queries), WINDOW):
            stop = start + WINDOW
            columns = self.pairs.encode(queries[start:stop], passages[start:stop])
            batch = self.pairs.batch(columns, partial(budget_groups, budget=self.tokens_per_batch))
            done = 0
            for group in batch.groups:
                size = len(group["input_ids"])
                rows = start + batch.order[done : done + size].numpy()
                scores[rows] = self._inference({name: x.to(self.device) for name, x in group.items()}).cpu().numpy()
                done += size
                yield from rows

    @torch.inference_mode()
    def _inference(self, group: dict[str, Tensor]) -> Tensor:
        half = autocasts(self.precision, self.device.type)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            return self._group_scores(group)


def _checked_templates(templates: Sequence[str]) -> tuple[str, str]:
    if len(templates) != 2 or "{query}" not in templates[0] or "{passage}" not in templates[1]:
        raise UserError(f"teacher.templates: {list(templates)} must be one text with {{query}}, one with {{passage}}")
    return templates[0], templates[1]
