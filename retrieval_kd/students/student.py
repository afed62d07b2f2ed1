"""The student: what every kind shares, and the one training step."""

from __future__ import annotations

import copy
import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from retrieval_kd.contracts import (
    Batch,
    Evidence,
    Filter,
    Pacing,
    Regularizer,
    Representations,
    Side,
    Signal,
    Signals,
    TokenGroup,
    Tokens,
)
from retrieval_kd.data.length_groups import budget_groups
from retrieval_kd.data.progress import track
from retrieval_kd.data.tokenize import TextTokenizer
from retrieval_kd.functional.allocator import reuse_memory
from retrieval_kd.functional.padding import widen
from retrieval_kd.functional.precision import autocasts
from retrieval_kd.students.gather import gather_pool

log = logging.getLogger(__name__)

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Training:
    """What a student is given to train with."""

    objective: Callable[[Evidence, Signals, Tensor, Tensor], dict[str, Tensor]]
    filter: Filter
    pacing: Pacing
    regularizer: Regularizer
    optimizer: OptimizerFactory
    warmup: float  # share of the steps in which the learning rate rises; it falls to zero over the rest
    gradient_cache: bool  # forward group by group without activations, again in the backward pass


@dataclass(frozen=True)
class Inference:
    """How texts are encoded outside training; the representations are float32 either way."""

    precision: str  # auto | bf16 | fp32: what the encoder computes in
    tokens_per_batch: int
    texts_per_sort: int = 16_384  # texts that are tokenized and sorted by length at once


class Student(pl.LightningModule):
    """Encodes queries and passages and compares them; subclasses say how, training is the same for all."""

    def __init__(self, tokenizer: TextTokenizer, inference: Inference) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.inference = inference
        self.training_parts: Training | None = None
        self._last: tuple[Evidence, Signals] | None = None
        self._seed = 0
        self._gives_words = False

    @abstractmethod
    def encode_group(self, group: TokenGroup, side: Side) -> Representations:
        """Representations of one group of padded texts."""

    @abstractmethod
    def compare(self, queries: Representations, passages: Representations) -> Tensor:
        """Similarities [Q, P] in float32."""

    def stored(self, representations: Representations) -> Representations:
        """The form in which representations leave the student, for stores and engines."""
        return representations

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Everything a representation depends on."""

    def prepare(self, training: Training) -> None:
        """Receive what to train with; modules with state become part of the checkpoint."""
        self.training_parts = training
        needs: frozenset[Signal] = getattr(training.objective, "needs", frozenset())
        self._gives_words = bool({Signal.ATTENTION, Signal.FEATURES} & needs)
        for name in ("objective", "filter", "pacing", "regularizer"):
            part = getattr(training, name)
            if isinstance(part, nn.Module):
                self.add_module(f"training_{name}", part)

    def words(self, group: TokenGroup, states: Tensor, side: Side) -> Representations:
        """States [n, L, D] of the tokens that texts are made of, packed to the front; in training, if a term asks.

        Neither special tokens nor those of a prompt are among them: the teacher does not read these.
        """
        if not (self._gives_words and torch.is_grad_enabled()):
            return {}
        special = torch.tensor(self.tokenizer.special_ids, device=states.device)
        kept = group.attention_mask.bool() & ~torch.isin(group.input_ids, special)
        kept &= kept.cumsum(1) > self.tokenizer.prompt_tokens(side)
        order = (~kept).to(torch.int8).argsort(dim=1, stable=True)
        return {
            "words": states.float().gather(1, order.unsqueeze(-1).expand_as(states)),
            "word_ids": group.input_ids.gather(1, order),
            "word_lengths": kept.sum(1),
        }

    def cut(self, lengths: Mapping[Side, int]) -> Self:
        """This student with other lengths, for a collection that needs them; no longer than the encoder's positions."""
        if not lengths:
            return self
        positions = getattr(getattr(self, "encoder", None), "config", None)
        most = getattr(positions, "max_position_embeddings", None) or max(lengths.values())
        for side, length in lengths.items():
            if length > most:
                log.warning("%s texts are cut at %d tokens, the encoder's positions, not at %d", side, most, length)
        other = copy.copy(self)
        other.tokenizer = self.tokenizer.cut({side: min(length, most) for side, length in lengths.items()})
        return other

    def encode(self, tokens: Tokens, side: Side) -> Representations:
        """Representations of all texts of ``tokens``, in the order in which they were given."""
        return in_given_order([self._encode_group(group, side) for group in tokens.groups], tokens.order)

    def _encode_group(self, group: TokenGroup, side: Side) -> Representations:
        if self.training_parts is None or not (self.training_parts.gradient_cache and torch.is_grad_enabled()):
            return self.encode_group(group, side)
        # Tensors as arguments, not the group: by them the checkpoint finds the device whose random numbers it repeats.
        representations: Representations = checkpoint(
            lambda *tensors: self.encode_group(TokenGroup(*tensors), side),
            group.input_ids,
            group.attention_mask,
            use_reentrant=False,
        )
        return representations

    def encode_texts(self, texts: Sequence[str], side: Side) -> Representations:
        """Encode in length-sorted batches of a token budget; CPU tensors in the order given, no gradient."""
        if self.device.type == "cpu":
            reuse_memory()
        training = self.training
        starts = range(0, len(texts), self.inference.texts_per_sort)
        self.eval()
        try:
            if not texts:
                return self._encode_chunk([""], side, keep=0)
            chunks = [
                self._encode_chunk(texts[start : start + self.inference.texts_per_sort], side)
                for start in track(starts, f"encode {side}")
            ]
        finally:
            self.train(training)
        return joined(chunks)

    @torch.inference_mode()
    def _encode_chunk(self, texts: Sequence[str], side: Side, keep: int | None = None) -> Representations:
        tokens = self.tokenizer.groups(
            texts, side, lambda lengths: budget_groups(lengths, self.inference.tokens_per_batch)
        )
        half = torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=autocasts(self.inference.precision, self.device.type)
        )
        with half:
            parts = [
                {name: _left(value) for name, value in self.stored(encoded).items()}
                for encoded in (self.encode_group(group.to(self.device), side) for group in tokens.groups)
            ]
        return {name: value[:keep] for name, value in in_given_order(parts, tokens.order).items()}

    @property
    def progress(self) -> float:
        """Share of the optimizer steps that are done."""
        return min(1.0, self.trainer.global_step / max(1, self.trainer.estimated_stepping_batches))

    def on_train_start(self) -> None:
        """Turn dropout on: Hugging Face loads encoders in eval mode and Lightning leaves them so."""
        self.train()
        self._seed = torch.initial_seed()
        if self.device.type == "cpu":
            reuse_memory()

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Let dropout depend on seed, process and batch alone: a resumed training repeats an uninterrupted one."""
        if self.training_parts is not None:
            self._set_learning_rates(self.training_parts.warmup)
        place = (self._seed, self.global_rank, self.current_epoch, batch_index)
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Encode, gather, compute the evidence once, and ask the objective."""
        parts = self.training_parts
        if parts is None:
            raise RuntimeError("Student.prepare must be called before training")
        queries, passages, signals, processes = gather_pool(
            self.encode(batch.queries, Side.QUERY), self.encode(batch.passages, Side.PASSAGE), batch
        )
        evidence = Evidence(queries, passages, self.compare)
        # The filter may ask for evidence, which is computed once: not under no_grad, or the objective has no gradient.
        negative = ~signals.positive & ~signals.dark & parts.filter(evidence, signals)
        with torch.no_grad():
            weight = parts.pacing(signals, self.progress)
        losses = parts.objective(evidence, signals, negative, weight)
        losses["penalty"] = parts.regularizer(queries, passages, self.progress, signals)
        total = torch.stack(list(losses.values())).sum()
        self._last = (evidence, signals)
        with torch.no_grad():
            seen = self.watched(passages)
            for part in (parts.filter, parts.pacing, parts.regularizer):
                seen |= getattr(part, "figures", {})
        figures = {**losses, "loss": total, **seen}
        self.log_dict(
            {f"train/{name}": torch.as_tensor(value).detach().float() for name, value in figures.items()},
            batch_size=len(weight),
        )
        return total * processes

    def watched(self, passages: Representations) -> dict[str, Tensor]:
        """What is logged of a batch's representations beside the losses."""
        return {}

    def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
        """Step what has a state once per optimizer step, on the first of the batches that the step accumulates."""
        if self.training_parts is not None and self._last is not None:
            evidence, signals = self._last
            with torch.no_grad():
                self.training_parts.filter.step(evidence, signals, self.progress)
                self.training_parts.pacing.step(signals, self.progress)
                self.training_parts.regularizer.step(evidence.queries, evidence.passages, self.progress)
            self._last = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The injected optimizer.

        How many steps there will be is not asked here: Lightning would make the loader for it, before a checkpoint is
        read, and then never restore where the loader stood.
        """
        parts = self.training_parts
        if parts is None:
            raise RuntimeError("Student.prepare must be called before training")
        optimizer = parts.optimizer([p for p in self.parameters() if p.requires_grad])
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def _set_learning_rates(self, warmup: float) -> None:
        """A linear rise over the first steps, then a linear fall to zero: a function of the step, so without state."""
        step, total = self.trainer.global_step, max(1, int(self.trainer.estimated_stepping_batches))
        rising = int(warmup * total)
        rate = (step + 1) / (rising + 1) if step < rising else max(0.0, (total - step) / max(1, total - rising))
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate


def joined(parts: Sequence[Representations]) -> Representations:
    """Rows of several parts one behind the other, padded to the widest."""
    whole = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        widest = max(value.shape[1] for value in values) if first.ndim > 1 else 0
        whole[name] = torch.cat([widen(value, widest) for value in values] if first.ndim > 1 else values)
    return whole


def in_given_order(parts: Sequence[Representations], order: Tensor) -> Representations:
    """Groups side by side, rows back where their texts stood."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return {name: value[place] for name, value in joined(parts).items()}


def _left(value: Tensor) -> Tensor:
    """On the CPU, numbers in 32 bits."""
    return value.to("cpu", torch.float32) if value.is_floating_point() else value.to("cpu")
