"""A cross-encoder that reads a query and two passages together: trains on preferences, judges pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from retrieval_kd.contracts import ScoreKind
from retrieval_kd.teachers.adamw import LinearAdamW
from retrieval_kd.teachers.classifier import check_length
from retrieval_kd.teachers.pair_training import TripleBatch
from retrieval_kd.teachers.reranker import Reranker
from retrieval_kd.teachers.token_rows import score_by_length
from retrieval_kd.teachers.triple_tokens import TripleTokenizer


class PairCrossEncoder(Reranker):
    """A Hugging Face sequence-classification model as a ``PairScorer`` that can be trained.

    It sees both passages at once, as duoBERT does (https://arxiv.org/abs/1910.14424); the model's one output, or the
    difference of its two, is the log-odds of the first over the second, fitted by the cross-entropy of preferences.

    Args:
        name: Hub name or folder.
        max_length: Of a query and two passages in tokens, special tokens included.
        precision: Of the forward pass when it scores; in training the trainer's holds.
        tokens_per_batch: Padded tokens per forward pass; changes speed and memory, not scores.
        optimizer: To train only.
    """

    def __init__(
        self,
        name: str,
        max_length: int = 384,
        precision: str = "fp32",
        tokens_per_batch: int = 8192,
        optimizer: LinearAdamW | None = None,
    ) -> None:
        super().__init__(name, precision, tokens_per_batch, optimizer, to_train=optimizer is not None)
        self.kind = ScoreKind.LOG_ODDS
        check_length(self.name, self.encoder, self.tokenizer, max_length)
        self.pairs = TripleTokenizer(self.tokenizer, max_length)

    def training_step(self, batch: TripleBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the preferences."""
        loss = F.binary_cross_entropy_with_logits(self(batch.rows), batch.preferred)
        self.log("train/loss", loss, batch_size=len(batch.preferred), prog_bar=True)
        return loss

    @property
    def fingerprint(self) -> str:
        """Weights, tokenizer, length, precision."""
        return "pair_cross_encoder:" + self.content(str(self.pairs.max_length))

    def score(self, queries: Sequence[str], firsts: Sequence[str], seconds: Sequence[str]) -> np.ndarray:
        """float32 [N] log-odds of the first over the second; the mode (train or eval) is left as it was found."""
        who = f"pairwise cross-encoder {self.name}"
        return score_by_length(self.pairs, (queries, firsts, seconds), self.infer, self.tokens_per_batch, who)
