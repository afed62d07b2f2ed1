"""What the trained judges of texts share: a sequence-classification model that reads a row of texts at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from retrieval_kd.contracts import ScoreKind, UserError
from retrieval_kd.data.files import atomic_folder, text_digest
from retrieval_kd.functional.precision import autocasts, computed_in
from retrieval_kd.teachers.adamw import LinearAdamW
from retrieval_kd.teachers.classifier import classifier_digest, load_classifier, score_kind
from retrieval_kd.teachers.token_rows import PairBatch


class Reranker(pl.LightningModule):
    """A Hugging Face sequence-classification model of one or two labels; subclasses say which texts it reads, and how.

    Args:
        name: Hub name or folder.
        precision: Of the forward pass when it scores; in training the trainer's holds.
        tokens_per_batch: Padded tokens per forward pass; changes speed and memory, not scores.
        optimizer: To train only.
        to_train: Whether a head that the checkpoint lacks may start fresh.
    """

    stored = True
    pairs: Any  # the reader of texts

    def __init__(
        self, name: str, precision: str, tokens_per_batch: int, optimizer: LinearAdamW | None, to_train: bool
    ) -> None:
        super().__init__()
        self.name = str(name)
        self.encoder, self.tokenizer = load_classifier(self.name, to_train)
        self.kind: ScoreKind = score_kind(self.name, self.encoder)
        autocasts(precision, "cpu")  # refuses an unknown one before anything is scored
        self.precision = precision
        self.tokens_per_batch = tokens_per_batch
        self.optimizer = optimizer
        self._versions: tuple[tuple[int, int], ...] = ()
        self._digest = ""

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and tokenizer: a ``name`` for this class and for any Hugging Face program."""
        with atomic_folder(Path(folder)) as temporary:
            self.encoder.save_pretrained(temporary)
            self.tokenizer.save_pretrained(temporary)

    def forward(self, batch: PairBatch) -> Tensor:
        """float32 [N] scores in the order of the rows."""
        scores = torch.cat([self._group_scores(group) for group in batch.groups])
        return scores[batch.order.argsort()]

    def _group_scores(self, group: dict[str, Tensor]) -> Tensor:
        logits = self.encoder(**group).logits.float()
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]

    def on_train_start(self) -> None:
        """Hugging Face opens models in eval mode and Lightning leaves them there: without this, no dropout."""
        self.encoder.train()

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule over all steps of the trainer."""
        if self.optimizer is None:
            raise UserError("teacher.optimizer: absent; training a cross-encoder needs one, scoring does not")
        optimizer, schedule = self.optimizer.build(self.encoder, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def content(self, *settings: str) -> str:
        """Name weights, tokenizer, settings and precision; the weights are read again once they have changed."""
        weights = self.encoder.state_dict().values()
        versions = tuple((weight.data_ptr(), weight._version) for weight in weights)
        if versions != self._versions:
            self._versions, self._digest = versions, classifier_digest(self.encoder, self.tokenizer)
        return text_digest(self._digest, *settings, computed_in(self.precision, self.device.type))

    @torch.inference_mode()
    def infer(self, group: dict[str, Tensor]) -> Tensor:
        """Scores of a group without dropout, on the module's own device; the mode is left as it was found."""
        training = self.encoder.training
        self.encoder.eval()
        half = autocasts(self.precision, self.device.type)
        try:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
                return self._group_scores({name: x.to(self.device) for name, x in group.items()})
        finally:
            self.encoder.train(training)
